"""Uses up what a node leaves of its share, so that none of it is saved.

A quota of control groups lets a node that idled compute at full speed until the period's
share is used up. This process has the lowest of all priorities, gives way at once, and
leaves nothing to be saved: a node is as slow after a pause as it is at work.
"""

from __future__ import annotations

import os


def main() -> None:
    """Computes nothing, for ever."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


if __name__ == "__main__":
    main()
