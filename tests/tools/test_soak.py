"""The soak of a server under Ray, for a few requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.full, pytest.mark.slow]


def test_killed_workers_and_leaving_clients_lose_nothing() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tools.soak", "--requests", "80"),
            *("--kill-every", "30", "--at-once", "5"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["answered"] + figures["cancelled"] == 80
    assert figures["wrong"] == figures["failed"] == 0
    # Two were killed, and there is one row at the end.
    assert len(figures["samples"]) == 3
