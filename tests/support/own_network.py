"""A network in which a process reaches only itself and the others that are in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_HOLD = "ip link set lo up && echo up && exec cat"


@contextmanager
def own_network() -> Iterator[tuple[str, ...]]:
    """Yields words before a command that run it in a network of loopback alone.

    What listens on all addresses there cannot be reached from elsewhere. There are no
    such words where the system does not let this user make a network.
    """
    try:
        holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--net", "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        yield ()
        return
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        is_up = holder.stdout.readline() == b"up\n"
        where = f"--target={holder.pid}"
        words = ("nsenter", where, "--user", "--net", "--preserve-credentials")
        try:
            yield words if is_up else ()
        finally:
            holder.stdin.close()
