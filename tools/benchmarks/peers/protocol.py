"""One process for each peer, with requests in lines of JSON: idle while others are timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class Peer:
    """A worker process, which is idle between requests.

    with Peer("tools.benchmarks.peers.with_transformers", folder) as peer:
        peer.ask("prepare", batch=8, prompt=128, new_tokens=128)
        times = peer.ask("run")
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Sends a request and returns the worker's answer.

        Raises:
            RuntimeError: If the worker ended; its output is on stderr.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"what": what, **details}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            msg = f"{self._module} ended with {process.wait()}"
            raise RuntimeError(msg)
        return json.loads(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def answer(actions: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answers requests on stdin until it ends; the output of libraries goes to stderr."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            details = json.loads(line)
            reply = actions[details.pop("what")](**details)
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


def prompts(batch: int, prompt: int, vocabulary: int) -> np.ndarray:
    """Returns the token ids of every peer's prompts, [batch, prompt]."""
    return np.random.default_rng(0).integers(3, vocabulary, (batch, prompt))
