"""Ends processes by their ids: by SIGTERM, and then by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import Any

PATIENCE_S = 5.0
STEP_S = 0.02


def end_processes(
    processes: Sequence[subprocess.Popen[Any]], family: Iterable[int]
) -> None:
    """Ends processes and their descendants, and waits for the former.

    Args:
        processes: Processes that this one started.
        family: Ids of these and of their descendants.
    """
    family = list(family)
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in family:
            send(pid, how)
        deadline_s = time.monotonic() + PATIENCE_S
        while any(process.poll() is None for process in processes):
            if time.monotonic() > deadline_s:
                break
            time.sleep(STEP_S)


def send(pid: int, how: signal.Signals) -> None:
    """Sends a signal to a process, if it is still running."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return
