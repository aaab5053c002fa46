"""Signals that end the program: noted when they come, acted on between steps.

Python would raise KeyboardInterrupt wherever the main thread happens to be. Inside a callback
of a library it is swallowed there, or ends the process with a native stack trace. So a handler
only notes a signal, and `check_interrupt` raises at places where nothing is half done. A thread
of its own ends the process if no such place is reached in time, as in a long call of a
library, or if a second signal comes: it deletes the temporary files that are there, prints one
line and leaves.

Signals are of the whole process, so what is noted is too: this module has a state, and no
other. A program that only imports the package keeps Python's own handling.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

# Signals that end the program, with what they are called in its last line.
_SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated",
}
# Time for the step in progress, and then for leaving by way of every `finally`.
_STEP_S = 5.0
_UNWINDING_S = 10.0
# Some senders signal a process, and then its whole group.
_REPEATED_S = 0.5
# What the main thread does, among the numbers of signals: it leaves, or it goes on.
_RAISED, _HANDLED = 254, 255


class TerminatedError(BaseException):
    """The program is to end at once; no part of it catches this and goes on.

    Attributes:
        exit_code: Exit code by the shell's convention.
    """

    def __init__(self, number: signal.Signals) -> None:
        """Takes the signal that came."""
        super().__init__(_SIGNALS[number])
        self.exit_code = 128 + number


class _Interrupts:
    """The signals of this process, and what is to be undone if it ends at once."""

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self.is_raised = False
        self.ends_all = False
        # Python writes each signal's number there, and the main thread what it does.
        self.descriptor: int | None = None
        # Held while the process ends, so that the main thread says nothing meanwhile.
        self.ending = threading.Lock()
        self._undo: dict[object, Callable[[], object]] = {}

    def add(self, undo: Callable[[], object]) -> object:
        key = object()
        with self.ending:
            self._undo[key] = undo
        return key

    def drop(self, key: object) -> None:
        with self.ending:
            del self._undo[key]

    def handle(self, number: int, _frame: object) -> None:
        """Notes a signal; runs in the main thread, between any two of its steps."""
        self.noted = signal.Signals(number)

    def report(self, what: int) -> None:
        """Reports what the main thread does to the thread that watches."""
        if self.descriptor is not None:
            with suppress(BlockingIOError):
                os.write(self.descriptor, bytes([what]))

    def watch(self, descriptor: int) -> None:
        """Waits for signals, and ends the process where the main thread does not."""
        number, left_s = None, None
        came_s = deadline_s = 0.0
        while True:
            if not select.select([descriptor], [], [], left_s)[0]:
                assert number is not None
                self.end_now(number)
            (what,) = os.read(descriptor, 1)
            now_s = time.monotonic()
            if what == _HANDLED:
                number, left_s = None, None
            elif what == _RAISED:
                deadline_s = now_s + _UNWINDING_S
            elif what in _SIGNALS and number is None:
                number, came_s = signal.Signals(what), now_s
                deadline_s = now_s + _STEP_S
            elif what in _SIGNALS and now_s - came_s > _REPEATED_S:
                self.end_now(signal.Signals(what))
            if number is not None:
                left_s = max(0.0, deadline_s - now_s)

    def end_now(self, number: signal.Signals) -> NoReturn:
        self.ending.acquire(timeout=1.0)
        for undo in reversed(list(self._undo.values())):
            with suppress(Exception):
                undo()
        with suppress(OSError):
            os.write(2, f"error: {_SIGNALS[number]}\n".encode())
        os._exit(128 + number)


_PROCESS = _Interrupts()


def handle_signals() -> None:
    """Notes signals from now on; the first thing that the program does."""
    if _PROCESS.descriptor is None:
        read_end, _PROCESS.descriptor = os.pipe()
        os.set_blocking(_PROCESS.descriptor, False)
        # A signal's number is there at once, even while a library is busy.
        signal.set_wakeup_fd(_PROCESS.descriptor, warn_on_full_buffer=False)
        threading.Thread(
            target=_PROCESS.watch, args=(read_end,), name="signals", daemon=True
        ).start()
    _install()


def handles_signals() -> bool:
    """Whether signals are noted here, as the program does and no other importer."""
    return _PROCESS.descriptor is not None


def restore_handlers() -> None:
    """Notes signals again after a library has taken them over."""
    if handles_signals():
        _install()


def check_interrupt() -> None:
    """Raises if a signal has been noted, in the main thread and once.

    Raises:
        KeyboardInterrupt: It was Ctrl-C.
        TerminatedError: It was another signal.
    """
    number = _PROCESS.noted
    if number is None or threading.current_thread() is not threading.main_thread():
        return
    _PROCESS.noted, _PROCESS.is_raised = None, True
    _PROCESS.report(_RAISED)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError(number)


@contextmanager
def undone_at_end(undo: Callable[[], object]) -> Iterator[None]:
    """Has a function called if the process ends at once during the body.

    It is called in another thread, while the body may still run; what is raised there
    is ignored.
    """
    key = _PROCESS.add(undo)
    try:
        yield
    finally:
        _PROCESS.drop(key)


@contextmanager
def not_ending() -> Iterator[None]:
    """Keeps the process from ending at once during the body, which takes no time."""
    with _PROCESS.ending:
        yield


@contextmanager
def interrupts_end_all() -> Iterator[None]:
    """Has Ctrl-C end the whole body, also where a part would go on with what it has."""
    before, _PROCESS.ends_all = _PROCESS.ends_all, True
    try:
        yield
    finally:
        _PROCESS.ends_all = before


def interrupt_handled() -> None:
    """Has the process go on after Ctrl-C, with what it has so far.

    Raises:
        KeyboardInterrupt: More than the caller is to end; see `interrupts_end_all`.
    """
    if _PROCESS.ends_all:
        raise KeyboardInterrupt
    _PROCESS.is_raised = False
    _PROCESS.report(_HANDLED)


def is_interrupted() -> bool:
    """Whether a signal has been noted, and the program does not go on after it."""
    return _PROCESS.noted is not None or _PROCESS.is_raised


def exit_process(code: Any) -> NoReturn:
    """Ends the process after a signal, without the ends of libraries' threads.

    Those may still be at work, and a process that ends around them may crash.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def _install() -> None:
    for number in _SIGNALS:
        # What is ignored, as by `nohup`, stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _PROCESS.handle)
