"""Signals are noted at any moment, acted on between steps, and never ignored.

What a signal does is of a whole process, so each test has one of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_START = """
import gc, os, signal, sys, threading, time
from functools import partial
from pathlib import Path
from llmpq_jax import interrupts
from llmpq_jax.files import new_folder, write_text
from llmpq_jax.interrupts import check_interrupt, handle_signals, interrupt_handled
interrupts._STEP_S = interrupts._UNWINDING_S = {step_s}
interrupts._REPEATED_S = {repeated_s}
folder = Path(sys.argv[1])
handle_signals()
send = partial(os.kill, os.getpid())
def forever():
    while True:
        time.sleep(0.01)
"""


def run(
    folder: Path, program: str, *, step_s: float = 60, repeated_s: float = 60
) -> subprocess.CompletedProcess[str]:
    start = _START.format(step_s=step_s, repeated_s=repeated_s)
    return subprocess.run(
        [sys.executable, "-c", start + program, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_signal_is_raised_once_and_where_it_is_asked_for(tmp_path):
    done = run(
        tmp_path,
        """
send(signal.SIGINT)
for _ in range(1000):
    pass
try:
    check_interrupt()
except KeyboardInterrupt:
    print("raised")
check_interrupt()
send(signal.SIGTERM)
try:
    check_interrupt()
except interrupts.TerminatedError as error:
    print(error, error.exit_code)
""",
    )
    assert (done.returncode, done.stdout) == (0, "raised\nterminated 143\n")


def test_a_signal_within_a_callback_of_a_library_is_not_lost(tmp_path):
    """What is raised in one is printed and forgotten, as in JAX's of garbage collection."""
    done = run(
        tmp_path,
        """
def collected(phase, details):
    if phase == "start":
        send(signal.SIGINT)
gc.callbacks.append(collected)
gc.collect()
gc.callbacks.clear()
try:
    check_interrupt()
except KeyboardInterrupt:
    print("raised")
""",
    )
    assert (done.stdout, done.stderr) == ("raised\n", "")


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        pytest.param(signal.SIGHUP, 129, "terminated", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("how", ["no step ends", "a second one comes", "it hangs"])
def test_a_process_that_does_not_end_is_ended(tmp_path, number, code, word, how):
    """Nothing unfinished stays, and what was there before does."""
    program = f"""
write_text(folder / "old", "old")
real_fsync = os.fsync
def fsync(descriptor):
    send({int(number)})
    {"time.sleep(0.1); send(" + str(int(number)) + ")" if how == "a second one comes" else ""}
    try:
        {"check_interrupt()" if how == "it hangs" else "pass"}
    finally:
        forever()
os.fsync = fsync
with new_folder(folder / "a" / "new", what="x", replaces=False, marks=(), kept=()) as made:
    (made / "file").touch()
    write_text(folder / "old", "new")
"""
    limits = {"repeated_s": 0.0} if how == "a second one comes" else {"step_s": 0.1}
    done = run(tmp_path, program, **limits)
    assert (done.returncode, done.stderr) == (code, f"error: {word}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path):
    """Some senders signal a process, and then its group."""
    done = run(
        tmp_path,
        """
for _ in range(2):
    send(signal.SIGTERM)
time.sleep(0.2)
print("goes on")
""",
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_program_that_goes_on_after_ctrl_c_is_left_alone(tmp_path):
    done = run(
        tmp_path,
        """
for _ in range(2):
    send(signal.SIGINT)
    try:
        check_interrupt()
    except KeyboardInterrupt:
        interrupt_handled()
    assert not interrupts.is_interrupted()
    time.sleep(0.3)
print("goes on", flush=True)
send(signal.SIGINT)
forever()
""",
        step_s=0.1,
    )
    assert (done.returncode, done.stdout) == (130, "goes on\n")


def test_a_part_of_what_is_to_end_does_not_go_on(tmp_path):
    done = run(
        tmp_path,
        """
def part():
    send(signal.SIGINT)
    try:
        check_interrupt()
    except KeyboardInterrupt:
        interrupt_handled()
        print("goes on")
part()
try:
    with interrupts.interrupts_end_all():
        part()
except KeyboardInterrupt:
    print("ends")
""",
    )
    assert (done.returncode, done.stdout) == (0, "goes on\nends\n")


def test_what_is_ignored_stays_ignored(tmp_path):
    done = run(
        tmp_path,
        """
signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupts.restore_handlers()
send(signal.SIGINT)
check_interrupt()
print("goes on")
""",
        step_s=0.0,
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_library_that_takes_signals_over_gives_them_back(tmp_path):
    done = run(
        tmp_path,
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
interrupts.restore_handlers()
send(signal.SIGTERM)
try:
    check_interrupt()
except interrupts.TerminatedError:
    print("raised")
""",
    )
    assert done.stdout == "raised\n"


def test_only_the_main_thread_raises(tmp_path):
    done = run(
        tmp_path,
        """
send(signal.SIGTERM)
threading.Thread(target=check_interrupt).start()
try:
    check_interrupt()
except interrupts.TerminatedError:
    print("raised")
""",
    )
    assert (done.stdout, done.stderr) == ("raised\n", "")


def test_without_the_program_python_handles_signals(tmp_path):
    program = """
import os, signal, llmpq_jax.interrupts as interrupts
interrupts.restore_handlers()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    interrupts.check_interrupt()
    print("raised")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "raised\n"
