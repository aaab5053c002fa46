"""Clients that send slowly, read never, leave, or come in crowds: others are served."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.server import connections, run
from llmpq_jax.server.batches.service import open_batches
from llmpq_jax.server.settings import ServerSettings
from llmpq_jax.server.state import ServerState
from tests.server.conftest import NAME, running

COMPLETIONS = "/v1/completions"
BODY = {"model": NAME, "prompt": "a", "max_tokens": 1}
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def address(
    serving: ServingLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A server that waits for nobody longer than a moment."""
    monkeypatch.setattr(connections, "_READ_TIMEOUT_S", 0.4)
    settings = ServerSettings(model_name=NAME, read_timeout_s=0.4)
    state = ServerState(settings)
    state.serve(serving)
    with (
        open_batches(state, tmp_path / "kept") as batches,
        running(state, batches) as found,
    ):
        yield found
        # Whatever was done to it, it serves.
        assert httpx.post(f"{found}{COMPLETIONS}", json=BODY).status_code == 200
        assert serving.num_unfinished == 0


@contextmanager
def connected(address: str, *said: bytes) -> Iterator[socket.socket]:
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
        for each in said:
            made.sendall(each)
        yield made


def received(client: socket.socket) -> bytes:
    """Returns all that comes until the server closes the connection."""
    found = b""
    try:
        while part := client.recv(1 << 20):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (COMPLETIONS, b"application/json"),
        ("/v1/files", b"multipart/form-data; boundary=x"),
    ],
)
def test_a_body_that_does_not_come_is_not_waited_for(
    address: str, path: str, kind: bytes
) -> None:
    head = HEAD % path.encode() + b"Content-Type: %s\r\n" % kind
    with connected(
        address, head, b"Content-Length: 100\r\nConnection: close\r\n\r\n--x"
    ) as client:
        answer = received(client)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_is_not_read_is_dropped(address: str) -> None:
    lines = b"{}\n" * (10 << 20)
    form = {"files": {"file": lines}, "data": {"purpose": "batch"}}
    stored = httpx.post(f"{address}/v1/files", timeout=60, **form).json()
    path = f"/v1/files/{stored['id']}/content".encode()
    with connected(address, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path) as client:
        client.settimeout(30)
        time.sleep(2)
        found = received(client)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert len(found) < len(lines)
    whole = httpx.get(f"{address}{path.decode()}", timeout=60).content
    assert whole == lines


def test_an_upload_that_ends_early_leaves_nothing(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    head = HEAD % b"/v1/files" + b"Content-Type: multipart/form-data; boundary=x\r\n"
    with (
        caplog.at_level(logging.ERROR),
        connected(
            address, head, b"Content-Length: 9999999\r\n\r\n", start, b"a" * 100_000
        ),
    ):
        pass
    assert httpx.get(f"{address}/v1/files").json()["data"] == []
    assert list((tmp_path / "kept" / "files").iterdir()) == []
    time.sleep(0.2)
    assert caplog.messages == []


def test_a_body_that_ends_early_is_no_fault_of_the_server(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        head = HEAD % COMPLETIONS.encode()
        with connected(address, head, b"Content-Length: 99\r\n\r\n{"):
            pass
        time.sleep(0.3)
    assert caplog.messages == []


def test_half_a_connection_is_a_client_that_left(
    address: str, serving: ServingLoop
) -> None:
    body = b'{"prompt": "a", "max_tokens": 200, "ignore_eos": true}'
    head = HEAD % COMPLETIONS.encode()
    with connected(address, head, b"Content-Length: %d\r\n\r\n" % len(body)) as client:
        client.sendall(body)
        client.shutdown(socket.SHUT_WR)
        received(client)
    deadline_s = time.monotonic() + 20
    while serving.num_unfinished:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_crowd_is_sent_away(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "_HEAD_TIMEOUT_S", 1.0)
    port = int(address.rpartition(":")[2])
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        time.sleep(0.2)
        for client in crowd[40:]:
            client.settimeout(10)
            assert received(client) == b""
        # The others said nothing, and are sent away in their time.
        for client in crowd[:40]:
            client.settimeout(10)
            assert received(client) == b""
    finally:
        for client in crowd:
            client.close()


def test_a_full_queue_is_said_and_nothing_of_the_request_stays(
    address: str, serving: ServingLoop
) -> None:
    body = BODY | {"n": serving.max_waiting + serving.shape.num_rows + 1}
    answer = httpx.post(f"{address}{COMPLETIONS}", json=body, timeout=60)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    deadline_s = time.monotonic() + 20
    while serving.num_unfinished:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_more_requests_than_may_are_told_to_come_later(
    serving: ServingLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MAX_REQUESTS", 4)
    state = ServerState(ServerSettings(model_name=NAME))
    state.serve(serving)
    with running(state) as found, ExitStack() as crowd:
        for _ in range(4):
            crowd.enter_context(connected(found))
        time.sleep(0.2)
        answer = httpx.post(f"{found}{COMPLETIONS}", json=BODY)
        assert answer.status_code == 503


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["TLS", "a long path", "many headers", "a negative length", "no chunk"],
)
def test_what_is_not_http_is_refused(
    address: str, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), connected(address) as client:
        try:
            client.sendall(said)
        except (ConnectionResetError, BrokenPipeError):
            return
        answer = received(client)
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 404")
    assert caplog.messages == []
