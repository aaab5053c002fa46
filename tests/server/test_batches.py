"""Files and batches: answered as the endpoints answer, once each, across restarts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.server.batches.service import open_batches
from llmpq_jax.server.settings import ServerSettings
from llmpq_jax.server.state import ServerState
from tests.server.conftest import NAME, running

_CHAT = "/v1/chat/completions"


@contextmanager
def clients(state: ServerState, folder: Path) -> Iterator[openai.OpenAI]:
    """Runs a server that keeps files in a folder; yields a client of it."""
    with (
        open_batches(state, folder) as batches,
        running(state, batches) as address,
        openai.OpenAI(
            base_url=f"{address}/v1", api_key="none", timeout=60, max_retries=0
        ) as client,
    ):
        yield client


@pytest.fixture
def client(state: ServerState, tmp_path: Path) -> Iterator[openai.OpenAI]:
    with clients(state, tmp_path / "kept") as found:
        yield found


def line(number: int, **body: Any) -> dict[str, Any]:
    asked = {
        "model": NAME,
        "messages": [{"role": "user", "content": f"question {number}"}],
        "max_tokens": 4 + number % 5,
        "temperature": 0,
    }
    return {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": _CHAT,
        "body": asked | body,
    }


def upload(client: openai.OpenAI, lines: list[dict[str, Any]]) -> str:
    content = "".join(json.dumps(each) + "\n" for each in lines).encode()
    file = client.files.create(file=("mine.jsonl", content), purpose="batch")
    assert file.bytes == len(content)
    return file.id


def start(client: openai.OpenAI, file_id: str) -> str:
    batch = client.batches.create(
        input_file_id=file_id,
        endpoint=_CHAT,
        completion_window="24h",
        metadata={"project": "mine"},
    )
    assert batch.status == "validating"
    return batch.id


def until(client: openai.OpenAI, batch_id: str, holds: Callable[[Any], bool]) -> Any:
    deadline_s = time.monotonic() + 60
    while not holds(batch := client.batches.retrieve(batch_id)):
        assert time.monotonic() < deadline_s, batch
        time.sleep(0.05)
    return batch


def ended(batch: Any) -> bool:
    return batch.status in ("completed", "failed", "cancelled")


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """Returns a file's results by the names of their lines, each of which is there once."""
    assert file_id is not None
    lines = client.files.content(file_id).text.splitlines()
    found = {each["custom_id"]: each for each in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def test_each_line_is_answered_as_its_endpoint_answers(client: openai.OpenAI) -> None:
    lines = [line(number) for number in range(9)]
    wrong = [
        line(100, max_tokens=-1),
        line(101, model="another"),
        line(102, messages=[{"role": "user", "content": "x" * 5000}]),
        line(103) | {"url": "/v1/completions", "body": {"prompt": "a"}},
    ]
    file_id = upload(client, [*lines[:4], *wrong, *lines[4:]])
    batch = until(client, start(client, file_id), ended)
    assert batch.status == "completed"
    assert batch.metadata == {"project": "mine"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (13, 9, 4)
    answers = results(client, batch.output_file_id)
    assert answers.keys() == {each["custom_id"] for each in lines}
    for each in lines:
        body = answers[each["custom_id"]]["response"]["body"]
        alone = client.chat.completions.create(**each["body"])
        assert body["choices"][0]["message"]["content"] == (
            alone.choices[0].message.content
        )
        assert body["usage"]["completion_tokens"] == alone.usage.completion_tokens
    errors = results(client, batch.error_file_id)
    reasons = {name: each["error"]["message"] for name, each in errors.items()}
    assert reasons.keys() == {each["custom_id"] for each in wrong}
    assert "max_tokens is -1" in reasons["request-100"]
    assert "model: found 'another', expected 'tiny'" in reasons["request-101"]
    assert "url: expected '/v1/chat/completions'" in reasons["request-103"]


def test_lines_without_a_seed_draw_each_their_own(client: openai.OpenAI) -> None:
    same = [{"role": "user", "content": "one of many"}]
    lines = [
        line(number, messages=same, temperature=2.0, max_tokens=12, n=2)
        for number in range(4)
    ]
    batch = until(client, start(client, upload(client, lines)), ended)
    texts = {
        choice["message"]["content"]
        for each in results(client, batch.output_file_id).values()
        for choice in each["response"]["body"]["choices"]
    }
    assert len(texts) == 8


def test_a_restarted_server_goes_on_where_it_was(
    state: ServerState, tmp_path: Path
) -> None:
    lines = [line(number, max_tokens=40) for number in range(40)]
    folder = tmp_path / "kept"
    with clients(state, folder) as client:
        batch_id = start(client, upload(client, lines))
        counted = until(client, batch_id, lambda each: each.request_counts.completed)
        assert not ended(counted)
    kept = (folder / "batches" / f"{batch_id}.results.jsonl").read_bytes()
    num_kept = kept.count(b"\n")
    assert 0 < num_kept < len(lines)
    with clients(state, folder) as client:
        until(client, batch_id, lambda each: each.request_counts.completed >= num_kept)
        batch = until(client, batch_id, ended)
        assert batch.status == "completed"
        assert batch.request_counts.completed == len(lines)
        text = client.files.content(batch.output_file_id).content
        assert text.startswith(kept)
        assert results(client, batch.output_file_id).keys() == {
            each["custom_id"] for each in lines
        }
    # Nothing is left but the files, and what describes them.
    assert not list((folder / "batches").glob("*results*"))
    with clients(state, folder) as client:
        assert client.batches.retrieve(batch_id).status == "completed"
        assert {each.purpose for each in client.files.list()} == {
            "batch",
            "batch_output",
        }


def test_a_server_of_another_model_ends_a_batch_with_what_it_has(
    state: ServerState, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    lines = [line(number, max_tokens=40) for number in range(40)]
    with clients(state, folder) as client:
        batch_id = start(client, upload(client, lines))
        until(client, batch_id, lambda each: each.request_counts.completed)
    (manifest,) = (folder / "batches").glob("*.manifest.toml")
    text = re.sub(
        '(?m)^fingerprint = ".*"', 'fingerprint = "sha256:0"', manifest.read_text()
    )
    manifest.write_text(text)
    with clients(state, folder) as client:
        batch = until(client, batch_id, ended)
        assert batch.status == "failed"
        (error,) = batch.errors.data
        assert "the model is another" in error.message
        found = results(client, batch.output_file_id)
    assert 0 < len(found) < len(lines)


def test_other_clients_are_answered_while_a_batch_runs(client: openai.OpenAI) -> None:
    lines = [line(number, max_tokens=50) for number in range(60)]
    batch_id = start(client, upload(client, lines))
    until(client, batch_id, lambda each: each.request_counts.completed)
    answer = client.chat.completions.create(**lines[0]["body"])
    assert answer.usage is not None
    assert not ended(client.batches.retrieve(batch_id))
    with pytest.raises(openai.APIStatusError, match="is being answered by") as caught:
        client.files.delete(client.batches.retrieve(batch_id).input_file_id)
    assert caught.value.status_code == 409
    assert client.batches.cancel(batch_id).status == "cancelling"
    batch = until(client, batch_id, ended)
    assert batch.status == "cancelled"
    found = results(client, batch.output_file_id)
    assert len(found) == batch.request_counts.completed < len(lines)
    client.files.delete(batch.input_file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(batch.input_file_id)


def test_a_file_without_requests_fails_its_batch(client: openai.OpenAI) -> None:
    batch = until(client, start(client, upload(client, [])), ended)
    assert batch.status == "failed"
    (error,) = batch.errors.data
    assert "holds no prompt" in error.message
    assert "/" not in error.message


def test_lists_have_pages(client: openai.OpenAI) -> None:
    made = [upload(client, [line(number)]) for number in range(5)]
    found = [each.id for each in client.files.list(limit=2)]
    assert sorted(found) == sorted(made)
    page = client.files.list(limit=2, after=found[1])
    assert [each.id for each in page.data] == found[2:4]
    assert list(client.files.list(purpose="batch_output")) == []
    assert list(client.batches.list()) == []


def post(client: openai.OpenAI, path: str, **content: Any) -> httpx.Response:
    return httpx.post(f"{client.base_url}{path}", timeout=60, **content)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"json": {}}, 400, "expected multipart/form-data"),
        ({"files": {"file": b"{}"}}, 400, "purpose: found None, expected"),
        (
            {"files": {"file": b"{}"}, "data": {"purpose": "fine-tune"}},
            400,
            "purpose: found",
        ),
        (
            {"files": {"other": b"{}"}, "data": {"purpose": "batch"}},
            400,
            "file: missing",
        ),
        (
            {"files": [("file", b"1"), ("file", b"2")], "data": {"purpose": "batch"}},
            400,
            "Too many files",
        ),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "boundary",
        ),
        (
            {"files": {"file": b"x" * 3000}, "data": {"purpose": "batch"}},
            413,
            "more than 2000 bytes",
        ),
    ],
)
def test_what_is_no_file_is_refused_and_leaves_nothing(
    serving: Any, tmp_path: Path, content: Any, status: int, message: str
) -> None:
    state = ServerState(ServerSettings(model_name=NAME, max_file_bytes=2000))
    state.serve(serving)
    with clients(state, tmp_path) as client:
        answer = post(client, "files", **content)
        assert answer.status_code == status, answer.text
        assert message in answer.json()["error"]["message"]
        assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint: found '/v1/embeddings'"),
        ({"endpoint": 3}, 400, "endpoint: found"),
        ({"input_file_id": "file-0"}, 404, "there is no file 'file-0'"),
        ({"input_file_id": "../../etc/passwd"}, 404, "there is no file"),
        ({"input_file_id": None}, 404, "there is no file"),
        ({"completion_window": 24}, 400, "completion_window: expected"),
        ({"metadata": {"a": 1}}, 400, "metadata: expected at most 16 texts"),
        ({"metadata": {str(n): "" for n in range(17)}}, 400, "metadata: expected"),
    ],
)
def test_what_is_no_batch_is_refused(
    client: openai.OpenAI, changes: dict[str, Any], status: int, message: str
) -> None:
    file_id = upload(client, [line(0)])
    asked = {"endpoint": _CHAT, "input_file_id": file_id, "completion_window": "24h"}
    answer = post(client, "batches", json=asked | changes)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]
    assert list(client.batches.list()) == []


def test_names_that_are_not_there_are_not_found(client: openai.OpenAI) -> None:
    for path in (
        "files/x",
        "files/x/content",
        "files/..%2f.lock/content",
        "batches/x",
        "batches/batch_0",
    ):
        answer = httpx.get(f"{client.base_url}{path}")
        assert answer.status_code == 404, path
    assert post(client, "batches/x/cancel").status_code == 404
    for query in ("limit=0", "limit=x", "after=x"):
        answer = httpx.get(f"{client.base_url}files?{query}")
        assert answer.status_code == 400, query


def test_a_server_without_a_folder_says_so(http: httpx.Client) -> None:
    for path in ("/v1/files", "/v1/files/x/content", "/v1/batches"):
        answer = http.get(path)
        assert answer.status_code == 501
        assert "--files FOLDER" in answer.json()["error"]["message"]


def test_a_folder_is_of_one_server(state: ServerState, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with open_batches(state, folder):
        assert folder.stat().st_mode & 0o077 == 0
        with (
            pytest.raises(RequestError, match="another server has it"),
            open_batches(state, folder),
        ):
            pass
    (folder / "files" / "file-1.json").write_text("[[[")
    (folder / "batches" / "batch_1.json").write_text("{}")
    (folder / "files" / "file-2.jsonl").write_text("half an upload")
    with clients(state, folder) as client:
        assert list(client.files.list()) == []
        assert list(client.batches.list()) == []
    assert not (folder / "files" / "file-2.jsonl").exists()
