"""Runs a command inside a node's limits: joins its groups, then replaces itself.

    python -m tools.emulation.enter '{"parent": …, "processor": …, …}' COMMAND…

Loads nothing heavy, so that the limits apply to the command and not to this program.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Applies the limits and executes the command."""
    limits, command = json.loads(sys.argv[1]), sys.argv[2:]
    # However the process that measures and cleans up ends, no node outlives it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != limits["parent"]:
        sys.exit("the emulation has ended before its node could start")
    os.sched_setaffinity(0, [limits["processor"]])
    if limits["data_bytes"] is not None:
        bound = limits["data_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    for group in limits["groups"]:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    try:
        os.execvp(command[0], command)
    except OSError as reason:
        sys.exit(f"{command[0]}: cannot be run ({reason.strerror})")


if __name__ == "__main__":
    main()
