"""Shares of a processor without control groups: nodes are stopped and continued in turn.

Unlike a quota of control groups, of which an idle node may save a part until its period
ends, a stop does not depend on what the node did before.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tools.emulation.ending import send

# Seconds between searches for new processes, which take time themselves.
_LOOK_S = 0.2


class DutyCycle:
    """Runs the nodes of one processor one after the other, from a thread.

    Only one node runs at a time, so that it has the processor to itself.
    """

    def __init__(self, speeds: dict[str, float], *, period_s: float) -> None:
        """Starts at once, until `close`.

        Args:
            speeds: Speed of each node, by name; their sum is at most 1.
            period_s: Seconds in which every node runs once.
        """
        self._speeds, self._period_s = speeds, period_s
        self._roots: dict[str, list[subprocess.Popen[Any]]] = {n: [] for n in speeds}
        self._pids: dict[str, list[int]] = {name: [] for name in speeds}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, name: str, process: subprocess.Popen[Any]) -> None:
        """Limits a process and its descendants to a node's share."""
        self._roots[name].append(process)

    def close(self) -> None:
        """Ends the thread and continues all processes."""
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        looked_s = float("-inf")
        was_on_s = dict.fromkeys(self._speeds, 0.0)
        try:
            while not self._ends.is_set():
                now_s = time.monotonic()
                if now_s - looked_s > _LOOK_S:
                    looked_s = now_s
                    self._look()
                for name, speed in self._speeds.items():
                    # A late stop is made up for later: the sum counts.
                    on_s = speed * (now_s - began_s + self._period_s) - was_on_s[name]
                    was_on_s[name] += self._let_go(name, on_s)
                rest_s = now_s + self._period_s - time.monotonic()
                time.sleep(max(0.0, rest_s))
        finally:
            self._look()
            for pids in self._pids.values():
                _send(pids, signal.SIGCONT)

    def _let_go(self, name: str, seconds: float) -> float:
        """Runs a node for some seconds, and returns for how many it ran."""
        if seconds <= 0:
            return 0.0
        started_s = time.monotonic()
        _send(self._pids[name], signal.SIGCONT)
        time.sleep(min(seconds, self._period_s))
        _send(self._pids[name], signal.SIGSTOP)
        return time.monotonic() - started_s

    def _look(self) -> None:
        for name, roots in self._roots.items():
            # The id of a process that ended may be another one's by now.
            here = [root for root in roots if root.poll() is None]
            self._pids[name] = [pid for root in here for pid in family(root.pid)]


def family(pid: int) -> list[int]:
    """Returns the ids of a process and its descendants; none if it has ended."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        if not Path(f"/proc/{parent}").exists():
            continue
        found.append(parent)
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                waiting += map(int, path.read_text(encoding="ascii").split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _send(pids: list[int], how: signal.Signals) -> None:
    for pid in pids:
        send(pid, how)
