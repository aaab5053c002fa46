"""`llmpq-jax serve` in a process of its own, for benchmarks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from llmpq_jax.schema.record_files import write_strategy
from llmpq_jax.schema.strategy import Strategy

NAME = "model"


@dataclass
class ServeProcess:
    """A server that serves.

    Attributes:
        url: Base URL for clients, with /v1.
        pid: Number of its process.
        lines: What it has written to stderr so far.
    """

    url: str
    pid: int
    lines: list[str] = field(default_factory=list)


@contextmanager
def serve_process(
    strategy: Strategy, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[ServeProcess]:
    """Starts a server with further options, waits until it serves, and ends it at last."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "strategy.toml"
        write_strategy(path, strategy)
        serve = ("serve", "--strategy", str(path), "--port", "0")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "llmpq_jax", *serve),
                *("--served-model-name", NAME, *words),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        found = ServeProcess(url="", pid=process.pid)
        is_ready = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                found.lines.append(line.rstrip("\n"))
                if line.startswith("serving "):
                    found.url = line.split()[-1]
                    is_ready.set()
            is_ready.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            is_ready.wait()
            if not found.url:
                msg = f"the server has ended: {found.lines[-1:]}"
                raise RuntimeError(msg)
            yield found
        finally:
            process.terminate()
            process.wait()
            reader.join()
