"""Which processes of some Ray nodes listen, and where.

    python -m tests.support.listening FOLDER

looks again and again, until its stdin ends, at the processes whose RAY_TMPDIR is a folder.
Then it prints what it has seen: a JSON array of [process, address, port]. It has to run in
their network.
"""

from __future__ import annotations

import json
import select
import sys
from pathlib import Path

import psutil

_PERIOD_S = 0.5


def processes_of(ray_folder: str) -> list[psutil.Process]:
    """Returns the processes of Ray nodes and commands, and all that they started.

    A worker overwrites its environment with its title, so it is found by its parents.
    """
    children: dict[int, list[psutil.Process]] = {}
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process)
        try:
            if process.environ().get("RAY_TMPDIR") == ray_folder:
                found.append(process)
        except psutil.Error:
            continue
    for process in found:
        found += [
            child for child in children.pop(process.pid, []) if child not in found
        ]
    return found


def listening(process: psutil.Process) -> set[tuple[str, str, int]]:
    """Returns where a process listens: its name, the address and the port."""
    try:
        return {
            (_name(process), each.laddr.ip.removeprefix("::ffff:"), each.laddr.port)
            for each in process.net_connections(kind="tcp")
            if each.status == psutil.CONN_LISTEN
        }
    except psutil.Error:
        return set()


def _name(process: psutil.Process) -> str:
    """Returns the title of a worker, the name of a script, or that of the program."""
    words = process.cmdline()
    if words and words[0].startswith("ray::"):
        return words[0].split()[0].split(".")[0]
    if "llmpq_jax" in words:
        return "llmpq-jax"
    scripts = [Path(word).name for word in words if word.endswith(".py")]
    is_script = scripts and process.name().startswith("python")
    return scripts[0] if is_script else process.name()


def _main(ray_folder: str) -> None:
    seen: set[tuple[str, str, int]] = set()
    while not select.select([sys.stdin], [], [], _PERIOD_S)[0]:
        for process in processes_of(ray_folder):
            seen |= listening(process)
    sys.stdout.write(json.dumps(sorted(seen)))


if __name__ == "__main__":
    _main(sys.argv[1])
