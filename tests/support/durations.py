"""Seconds that groups of tests take, so that the longest ones start first.

    LLMPQ_TEST_DURATIONS=tests/support/durations.json make test

writes them anew. A group is what pytest-xdist keeps in one process: a module, or a mark's
name.
"""

from __future__ import annotations

import atexit
import json
import os
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

_COMMITTED = Path(__file__).parent / "durations.json"
_SECONDS: defaultdict[str, float] = defaultdict(float)


@cache
def group_seconds() -> dict[str, float]:
    """Seconds of each group, of one quiet run of `make test` on two cores."""
    return json.loads(_COMMITTED.read_text(encoding="utf-8"))


def group_of(item: pytest.Item) -> str:
    """Name of a test's group."""
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None, "each test has a group"
    return str(marker.args[0])


def record_durations(report: pytest.TestReport) -> None:
    """Counts a test's seconds; the file that the environment names is written at exit."""
    path = os.environ.get("LLMPQ_TEST_DURATIONS")
    # Of pytest-xdist's processes the controlling one alone sees all tests.
    if not path or "PYTEST_XDIST_WORKER" in os.environ:
        return
    if not _SECONDS:
        atexit.register(_write, Path(path))
    _SECONDS[report.nodeid.rpartition("@")[2]] += report.duration


def _write(path: Path) -> None:
    longest_first = sorted(_SECONDS.items(), key=lambda entry: -entry[1])
    rounded = {group: round(seconds, 1) for group, seconds in longest_first}
    path.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
