"""Control groups of both versions: limits of a node's processor time and memory.

https://docs.kernel.org/admin-guide/cgroup-v1/ and …/cgroup-v2.html
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.emulation import ending

Controller = Literal["cpu", "memory"]
PREFIX = "llmpq-jax-nodes-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchy:
    """A hierarchy in which groups of some controllers can be made.

    Attributes:
        version: Version of control groups.
        controllers: Controllers that are available there.
        parent: Folder in which new groups are made.
    """

    version: Literal[1, 2]
    controllers: tuple[Controller, ...]
    parent: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One node's group in one hierarchy."""

    hierarchy: Hierarchy
    path: Path

    def limit_speed(self, speed: float, period_s: float) -> None:
        """Limits all its processes together to a fraction `speed` of each period."""
        period_us = round(period_s * 1e6)
        quota_us = round(speed * period_s * 1e6)
        if self.hierarchy.version == 1:
            _write(self.path / "cpu.cfs_period_us", period_us)
            _write(self.path / "cpu.cfs_quota_us", quota_us)
        else:
            _write(self.path / "cpu.max", f"{quota_us} {period_us}")

    def limit_memory(self, num_bytes: int) -> None:
        """Limits the memory of all its processes together, and disables swap."""
        if self.hierarchy.version == 1:
            _write(self.path / "memory.limit_in_bytes", num_bytes)
            swap, bound = self.path / "memory.memsw.limit_in_bytes", num_bytes
        else:
            _write(self.path / "memory.max", num_bytes)
            swap, bound = self.path / "memory.swap.max", 0
        # A kernel without swap has no such file, and nothing to limit.
        if swap.exists():
            _write(swap, bound)

    def processes(self) -> list[int]:
        """Returns the ids of the processes in the group."""
        try:
            text = (self.path / "cgroup.procs").read_text(encoding="ascii")
        except FileNotFoundError:
            return []
        return [int(line) for line in text.split()]


def find_hierarchies(
    *, within: str | None = None, proc: Path = Path("/proc/self")
) -> dict[Controller, Hierarchy]:
    """Returns the hierarchy of each controller for which groups can be made.

    A group that another program made for this process belongs to that program: groups
    are made only below the root of a hierarchy, or in `within`.

    Args:
        within: Group to make them in, as /proc/self/cgroup writes it.
        proc: Folder of this process in /proc.
    """
    found: dict[Controller, Hierarchy] = {}
    own = _own_groups(proc)
    for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        root, mount = fields.split()[3:5]
        kind, _, options = rest.split()[:3]
        version: Literal[1, 2]
        if kind == "cgroup":
            version, names = 1, set(options.split(","))
            group = next((path for held, path in own.items() if held & names), None)
        elif kind == "cgroup2":
            version, group = 2, own.get(frozenset({""}))
            names = set(_words(Path(mount) / "cgroup.controllers"))
        else:
            continue
        if root != "/" or (within is None and group != "/"):
            continue
        parent = Path(mount) / (within or "/").lstrip("/")
        controllers: tuple[Controller, ...] = tuple(
            name
            for name in ("cpu", "memory")
            if name in names and os.access(parent, os.W_OK)
        )
        for name in controllers:
            found.setdefault(
                name, Hierarchy(version=version, controllers=controllers, parent=parent)
            )
    return found


def make_group(hierarchy: Hierarchy, owner: int, node: str) -> Group:
    """Makes a node's group in the group of the process that owns all of them.

    Raises:
        OSError: If the kernel does not permit it.
    """
    base = hierarchy.parent / f"{PREFIX}{owner}"
    base.mkdir(exist_ok=True)
    if hierarchy.version == 2:
        for folder in (hierarchy.parent, base):
            wanted = set(hierarchy.controllers) - set(
                _words(folder / "cgroup.subtree_control")
            )
            for name in sorted(wanted):
                _write(folder / "cgroup.subtree_control", f"+{name}")
    path = base / node
    path.mkdir()
    return Group(hierarchy=hierarchy, path=path)


def end_groups(groups: Iterable[Group]) -> None:
    """Ends the processes in groups, by SIGTERM and then SIGKILL, and removes the groups.

    Raises:
        TimeoutError: If a process does not end.
    """
    groups = list(groups)
    for how in (signal.SIGTERM, signal.SIGKILL):
        deadline_s = time.monotonic() + ending.PATIENCE_S
        while any(group.processes() for group in groups):
            for pid in {pid for group in groups for pid in group.processes()}:
                ending.send(pid, how)
            if time.monotonic() > deadline_s:
                break
            time.sleep(ending.STEP_S)
    for group in groups:
        for folder in (group.path, group.path.parent):
            _remove(folder)


def end_left_over(hierarchies: Iterable[Hierarchy]) -> list[int]:
    """Ends the groups of owners that have ended, and returns their process ids."""
    owners = []
    for hierarchy in hierarchies:
        for base in sorted(hierarchy.parent.glob(f"{PREFIX}*")):
            owner = int(base.name.removeprefix(PREFIX))
            if Path(f"/proc/{owner}").exists():
                continue
            owners.append(owner)
            inside = [path for path in base.iterdir() if path.is_dir()]
            end_groups(Group(hierarchy=hierarchy, path=path) for path in inside)
            _remove(base)
    return owners


def _own_groups(proc: Path) -> dict[frozenset[str], str]:
    lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
    split = [line.split(":", 2) for line in lines]
    return {frozenset(names.split(",")): path for _, names, path in split}


def _remove(folder: Path) -> None:
    """Removes a group, once the kernel has removed its last process."""
    deadline_s = time.monotonic() + ending.PATIENCE_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError as reason:
            # Other nodes of the same owner keep the group above theirs.
            if any(path.is_dir() for path in folder.iterdir()):
                return
            if time.monotonic() > deadline_s:
                msg = f"control group {folder}: cannot be removed ({reason.strerror}); its processes: {Group(hierarchy=_NOWHERE, path=folder).processes()}"
                raise TimeoutError(msg) from reason
            time.sleep(ending.STEP_S)


_NOWHERE = Hierarchy(version=1, controllers=(), parent=Path("/"))


def _write(path: Path, value: object) -> None:
    path.write_text(f"{value}\n", encoding="ascii")


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
