"""SIGTERM and Ctrl-C end every command at every moment: one line, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.every_command import words_of

# Syncing a file is a moment of writing: it says so, and never ends by itself.
_PROGRAM = """
import os, sys, time
from llmpq_jax import interrupts
interrupts._STEP_S = 1.0
if sys.argv.pop(1) == "writing":
    def fsync(descriptor):
        os.write(2, b"writing ...\\n")
        while True:
            time.sleep(0.01)
    os.fsync = fsync
from llmpq_jax.__main__ import main
main()
"""
# Those that say nothing of their work, because it takes no time.
_SILENT = {"devices", "explain", "export"}
_NO_OUTPUT = {"check", "compare", "evaluate", "export"}
# What is said at work where that is not a step's name with three dots.
_AT_WORK = {"sweep": "tokens/s"}
# What an interrupted command continues from.
_RESUMED = {".out.toml.work", "rounded", "out.jsonl", "out.jsonl.manifest.toml", "work"}
# Rows and points that are written as they are found.
_KEPT = {"profile": {"out.toml"}, "sweep": {"out.csv"}}
SIGNALS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def _cases() -> list:
    names = (
        *("devices", "profile", "indicate", "solve", "compare", "explain", "sweep"),
        *("check", "generate", "evaluate", "quantize", "export", "quickstart"),
    )
    quick = {
        ("devices", "start", signal.SIGINT),
        ("solve", "start", signal.SIGTERM),
        ("solve", "working", signal.SIGTERM),
        ("solve", "writing", signal.SIGINT),
        ("generate", "working", signal.SIGTERM),
    }
    return [
        pytest.param(
            *case,
            id=f"{name}-{moment}-{number.name}",
            marks=() if case in quick else pytest.mark.full,
        )
        for name in names
        for moment in ("start", "working", "writing")
        for number in SIGNALS
        if not (moment == "working" and name in _SILENT)
        if not (moment == "writing" and name in _NO_OUTPUT)
        # Ctrl-C ends a sweep with the points that it has: see `test_sweep`.
        if (name, moment, number) != ("sweep", "working", signal.SIGINT)
        for case in [(name, moment, number)]
    ]


def _handles(process: subprocess.Popen[str]) -> bool:
    """Whether a process has a handler of SIGTERM, which Python alone does not install."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def start(inputs, tmp_path):
    processes: list[subprocess.Popen[str]] = []

    def start_command(name: str, moment: str) -> subprocess.Popen[str]:
        words = words_of(name, inputs, tmp_path / "out")
        variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, moment, *words],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    (tmp_path / "out").mkdir()
    yield start_command
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("name", "moment", "number"), _cases())
def test_a_signal_ends_a_command_in_one_line(start, tmp_path, name, moment, number):
    process = start(name, moment)
    said = ""
    if moment == "start":
        while process.poll() is None and not _handles(process):
            pass
    else:
        marker = "writing ..." if moment == "writing" else _AT_WORK.get(name, "…")
        while marker not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
    process.send_signal(number)
    said += process.communicate(timeout=120)[1]
    code, word = SIGNALS[number]
    assert process.returncode == code, said
    *progress, last = said.splitlines()
    assert last == f"error: {word}"
    # Neither Python's traceback nor a library's stack trace, nor a second end.
    wrong = ("Traceback", "  File", "***", "error:", "Fatal", "Exception ignored")
    assert not [line for line in progress if line.startswith(wrong)], said
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= _RESUMED | _KEPT.get(name, set())
    folders = [tmp_path / "out", *(tmp_path / "out" / each for each in left)]
    for folder in folders:
        if folder.is_dir():
            # A temporary name begins with a dot and ends with a random number.
            assert not [p for p in folder.iterdir() if len(p.suffix) == 17]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_pipe_that_nobody_feeds_is_waited_for_until_a_signal(
    inputs, tmp_path, number
):
    pipe = tmp_path / "prompts.jsonl"
    os.mkfifo(pipe)
    words = ["generate", "--strategy", str(inputs.strategy), "--prompts", str(pipe)]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmpq_jax", *words],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    timer = threading.Timer(120, process.kill)
    timer.start()
    while "waiting for what is written to it" not in (
        line := process.stderr.readline()
    ):
        assert line
    process.send_signal(number)
    said = process.communicate()[1]
    timer.cancel()
    code, word = SIGNALS[number]
    assert (process.returncode, said) == (code, f"error: {word}\n")
