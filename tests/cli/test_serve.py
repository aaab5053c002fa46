"""`llmpq-jax serve` as a process: it says when it serves, drains, and ends in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result

BODY = {"prompt": "ab", "temperature": 0, "ignore_eos": True}


def _command(strategy: Path, port: str, *words: object) -> list[str]:
    python = (sys.executable, "-m", "llmpq_jax")
    serve = ("serve", "--strategy", str(strategy), "--port", port)
    return [*python, *serve, *map(str, words)]


class Server:
    """A server in a process of its own."""

    def __init__(self, strategy: Path, *words: object) -> None:
        self.process = subprocess.Popen(
            _command(strategy, "0", *words),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def end(self) -> None:
        """Ends the process if it has not ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def address(self, line: str) -> str:
        """Waits for a line, and returns the address in it."""
        deadline_s = time.monotonic() + 120
        while True:
            for found in list(self.lines):
                if re.search(line, found):
                    return re.findall(r"http://127.0.0.1:\d+", found)[0]
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@contextmanager
def running(strategy: Path, *words: object) -> Iterator[Server]:
    server = Server(strategy, *words)
    try:
        yield server
    finally:
        server.end()


def test_a_server_answers_and_drains(strategy: Path) -> None:
    with running(strategy) as server:
        address = server.address("listening at")
        assert httpx.get(f"{address}/health").status_code in (200, 503)
        server.address("serving")
        assert httpx.get(f"{address}/health").status_code == 200
        url = f"{address}/v1/completions"
        with httpx.stream(
            "POST", url, json=BODY | {"max_tokens": 8, "stream": True}, timeout=60
        ) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert first.startswith("data: {")
        assert rest[-2] == "data: [DONE]"
        assert server.process.wait(60) == 128 + signal.SIGTERM
    assert server.lines[-1] == "error: terminated"
    assert not any("Traceback" in line for line in server.lines)


def _batch(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    return http.get(f"/batches/{batch_id}").json()


def test_a_batch_outlives_its_server_however_that_ends(
    strategy: Path, tmp_path: Path
) -> None:
    kept, num_lines, batch_id = tmp_path / "kept", 60, ""
    requests = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": BODY | {"max_tokens": 8, "prompt": f"{number}"},
        }
        for number in range(num_lines)
    ]
    content = "\n".join(map(json.dumps, requests)).encode()
    for end in (signal.SIGTERM, signal.SIGKILL, None):
        with running(strategy, "--files", kept) as server:
            address = server.address("listening at")
            with httpx.Client(base_url=f"{address}/v1", timeout=60) as http:
                if not batch_id:
                    # Files are taken while the model is being loaded.
                    form = {"files": {"file": content}, "data": {"purpose": "batch"}}
                    file_id = http.post("/files", **form).json()["id"]
                    asked = {"input_file_id": file_id, "endpoint": "/v1/completions"}
                    batch_id = http.post("/batches", json=asked).json()["id"]
                server.address("serving")
                batch = partial(_batch, http, batch_id)
                # Once more than before, so that the batch has gone on.
                before = batch()["request_counts"]["completed"]
                while end and batch()["request_counts"]["completed"] <= before:
                    time.sleep(0.01)
                if end is not None:
                    assert batch()["status"] == "in_progress"
                    server.process.send_signal(end)
                    assert server.process.wait(60) in (128 + end, -end)
                    continue
                while batch()["status"] != "completed":
                    time.sleep(0.05)
                output = http.get(f"/files/{batch()['output_file_id']}/content").text
        assert not any("Traceback" in line for line in server.lines)
    names = [json.loads(line)["custom_id"] for line in output.splitlines()]
    assert sorted(names) == sorted(each["custom_id"] for each in requests)


def test_ctrl_c_while_it_loads_ends_it(strategy: Path) -> None:
    with running(strategy) as server:
        server.address("listening at")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 128 + signal.SIGINT
    assert server.lines[-1] == "error: interrupted"
    assert not any("Traceback" in line for line in server.lines)


def test_a_port_in_use_is_one_line(strategy: Path) -> None:
    with running(strategy) as server:
        port = server.address("listening at").rpartition(":")[2]
        second = subprocess.run(
            _command(strategy, port),
            capture_output=True,
            text=True,
            env=os.environ,
            check=False,
        )
    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"error: address 127.0.0.1:{port}: cannot be listened on")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_served_with_a_key_alone(
    run: Callable[..., Result], strategy: Path, host: str
) -> None:
    result = run("serve", "--strategy", strategy, "--host", host)
    assert result.exit_code == 2
    assert f"--host {host}: others would reach the server: expected" in result.stderr
