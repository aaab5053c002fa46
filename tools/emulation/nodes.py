"""Emulated nodes: they start commands inside their limits, and end them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from tools.emulation.control_groups import (
    Controller,
    Group,
    Hierarchy,
    end_groups,
    end_left_over,
    find_hierarchies,
    make_group,
)
from tools.emulation.duty_cycle import DutyCycle, family
from tools.emulation.ending import end_processes, send
from tools.emulation.speeds import Emulation

Limiter = Literal["control groups", "duty cycle"]
_ENTER = (sys.executable, "-m", "tools.emulation.enter")
_USE_UP = (sys.executable, "-m", "tools.emulation.idle")


class EmulatedNodes:
    """The nodes of an emulation and the processes that run in them.

    Attributes:
        emulation: Cluster and limits that are emulated.
        speed_limiter: Mechanism that limits speeds.
        memory_limiter: Mechanism that limits memory: control groups limit a node,
            RLIMIT_DATA each of its processes.
    """

    def __init__(
        self,
        emulation: Emulation,
        *,
        limiter: Limiter | None = None,
        within: str | None = None,
    ) -> None:
        """Makes the groups, and ends what a killed emulation left behind.

        Args:
            emulation: Cluster and limits to emulate.
            limiter: Mechanism that limits speeds; by default control groups where they
                can be made.
            within: Group to make groups in, see `find_hierarchies`.
        """
        self.emulation = emulation
        self._processes: list[subprocess.Popen[Any]] = []
        self._using_up: list[subprocess.Popen[Any]] = []
        self._cycles: dict[int, DutyCycle] = {}
        self._groups: dict[str, list[Group]] = {}
        hierarchies = {} if limiter == "duty cycle" else find_hierarchies(within=within)
        if limiter == "control groups" and "cpu" not in hierarchies:
            msg = "no control group for processor time can be made here: expected a writable one of version 1 or 2; name one with --group, or use --limiter 'duty cycle'"
            raise OSError(msg)
        end_left_over(_unique(hierarchies))
        self.speed_limiter: Limiter = (
            "control groups" if "cpu" in hierarchies else "duty cycle"
        )
        self.memory_limiter = (
            "control groups" if "memory" in hierarchies else "RLIMIT_DATA"
        )
        try:
            for node in emulation.speeds.nodes:
                self._groups[node.name] = self._make_groups(node.name, hierarchies)
            if self.speed_limiter == "control groups":
                self._using_up = [
                    self.start(node.name, _USE_UP) for node in emulation.speeds.nodes
                ]
        except BaseException:
            self.close()
            raise

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Starts a command inside a node.

        Args:
            name: Name of the node.
            command: Command and its arguments.
            environment: Variables added to this process's.
            options: Keyword arguments of `subprocess.Popen`.
        """
        node = self.emulation.node(name)
        limits = {
            "parent": os.getpid(),
            "processor": node.processor,
            "data_bytes": None
            if self.memory_limiter == "control groups"
            else self.emulation.memory_bytes(name),
            "groups": [str(group.path) for group in self._groups[name]],
        }
        process = subprocess.Popen(
            [*_ENTER, json.dumps(limits), *command],
            env={**os.environ, **(environment or {})},
            **options,
        )
        self._processes.append(process)
        if self.speed_limiter == "duty cycle":
            self._cycle(node.processor).add(name, process)
        return process

    @contextmanager
    def at_full_speed(self) -> Iterator[None]:
        """Lifts the limits of speed, for loading and compiling, which are not timed."""
        groups = [
            (group, self.emulation.node(name).speed)
            for name, made in self._groups.items()
            for group in made
            if "cpu" in group.hierarchy.controllers
        ]
        try:
            for process in self._using_up:
                send(process.pid, signal.SIGSTOP)
            for group, _ in groups:
                group.limit_speed(1.0, self.emulation.speeds.period_s)
            yield
        finally:
            for group, speed in groups:
                group.limit_speed(speed, self.emulation.speeds.period_s)
            for process in self._using_up:
                send(process.pid, signal.SIGCONT)

    def end(self, processes: Iterable[subprocess.Popen[Any]]) -> None:
        """Ends processes that `start` returned, and their descendants."""
        processes = [one for one in processes if one.poll() is None]
        end_processes(processes, [pid for one in processes for pid in family(one.pid)])

    def close(self) -> None:
        """Ends every process of every node, and removes the groups."""
        for cycle in self._cycles.values():
            cycle.close()
        self.end(self._processes)
        end_groups(group for groups in self._groups.values() for group in groups)
        self._groups, self._processes, self._cycles = {}, [], {}

    def __enter__(self) -> EmulatedNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cycle(self, processor: int) -> DutyCycle:
        if processor not in self._cycles:
            speeds = self.emulation.speeds
            self._cycles[processor] = DutyCycle(
                {n.name: n.speed for n in speeds.nodes if n.processor == processor},
                period_s=speeds.period_s,
            )
        return self._cycles[processor]

    def _make_groups(
        self, name: str, hierarchies: Mapping[Controller, Hierarchy]
    ) -> list[Group]:
        node = self.emulation.node(name)
        made: dict[str, Group] = {}
        for controller, hierarchy in hierarchies.items():
            key = str(hierarchy.parent)
            if key not in made:
                made[key] = make_group(hierarchy, os.getpid(), name)
                # Stored at once, so that `close` removes it if the next step fails.
                self._groups[name] = list(made.values())
            if controller == "cpu":
                made[key].limit_speed(node.speed, self.emulation.speeds.period_s)
            else:
                made[key].limit_memory(self.emulation.memory_bytes(name))
        return list(made.values())


def _unique(hierarchies: Mapping[Controller, Hierarchy]) -> list[Hierarchy]:
    return list({str(held.parent): held for held in hierarchies.values()}.values())
