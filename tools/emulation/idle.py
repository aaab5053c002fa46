"""Uses up the unused part of a node's share, so that none of it is saved.

A quota of control groups lets a node that idled compute at full speed until the period's
share is used up. This process has the lowest priority and is preempted at once, and
leaves nothing to save: a node is as slow after a pause as it is under load.
"""

from __future__ import annotations

import os


def main() -> None:
    """Uses processor time until it is killed."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


if __name__ == "__main__":
    main()
