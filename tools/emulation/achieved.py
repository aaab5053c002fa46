"""Measures the speed of emulated nodes while all of them compute."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from llmpq_jax.errors import MeasurementError
from tools.emulation.nodes import EmulatedNodes
from tools.emulation.speeds import Speeds

MAX_OFF = 0.1
SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Rate at which pieces of work are done.

    Attributes:
        per_s: Pieces per second of wall time.
        per_processor_s: Pieces per second of processor time, which does not depend on
            other processes.
    """

    per_s: float
    per_processor_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Work that a process did, see `spin`.

    Attributes:
        computing: Rate of hashing a block that stays in the cache.
        reading: Rate of reading an array from memory.
        short_s: Mean seconds of a short piece of work after a pause.
    """

    computing: Rate
    reading: Rate
    short_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Achieved:
    """A node's measured speed, compared with its file's.

    Speeds are measured while all nodes compute, relative to one process alone without
    limits.

    Attributes:
        name: Name of the node.
        asked: Speed in the file.
        processor_share: Fraction of the processor's time while all nodes compute.
        speed: Relative speed of computing.
        memory_speed: Relative speed of reading memory.
        short_speed: Relative speed of a short piece of work after a pause: a node that
            idled may use a period's whole share at once, and so appear faster.
    """

    name: str
    asked: float
    processor_share: float
    speed: float
    memory_speed: float
    short_speed: float

    @property
    def off(self) -> float:
        """Relative error of the speed."""
        return self.speed / self.asked - 1


def measure_alone(speeds: Speeds, *, seconds: float = SECONDS) -> dict[int, Work]:
    """Measures each processor of a file of speeds without limits.

    Call it before the nodes are made, because these use the processors.
    """
    alone = {}
    for processor in sorted({node.processor for node in speeds.nodes}):
        command = [*_spin(seconds), str(processor)]
        process = subprocess.Popen(command, **_PIPES)
        alone[processor] = _results({f"on processor {processor}": process}).popitem()[1]
    return alone


def measure_achieved(
    nodes: EmulatedNodes, alone: Mapping[int, Work], *, seconds: float = SECONDS
) -> list[Achieved]:
    """Measures all nodes at once.

    Args:
        nodes: Nodes to measure; nothing else should run in them.
        alone: Work of each processor without limits.
        seconds: Duration of computing, and again of reading memory.
    """
    speeds = nodes.emulation.speeds
    started = {
        node.name: nodes.start(node.name, _spin(seconds), **_PIPES)
        for node in speeds.nodes
    }
    works = _results(started)
    achieved = []
    for node in speeds.nodes:
        work, whole = works[node.name], alone[node.processor]
        computing = work.computing
        achieved.append(
            Achieved(
                name=node.name,
                asked=node.speed,
                processor_share=computing.per_s / computing.per_processor_s,
                speed=computing.per_s / whole.computing.per_processor_s,
                memory_speed=work.reading.per_s / whole.reading.per_processor_s,
                short_speed=whole.short_s / work.short_s,
            )
        )
    return achieved


def check_achieved(achieved: Sequence[Achieved]) -> None:
    """Refuses speeds that differ from the file's.

    Raises:
        MeasurementError: If a node's speed is off by more than a tenth.
    """
    if not is_achieved(achieved):
        wrong = [node for node in achieved if abs(node.off) > MAX_OFF]
        speeds = ", ".join(
            f"{node.name} has {node.speed:.3f} instead of {node.asked:g}"
            for node in wrong
        )
        msg = f"speeds missed by more than {MAX_OFF:.0%}: {speeds}: end other programs on this machine, or set lower speeds; nothing is reported of such nodes"
        raise MeasurementError(msg)


def is_achieved(achieved: Sequence[Achieved]) -> bool:
    """Whether the speed of every node is within a tenth of the file's."""
    return all(abs(node.off) <= MAX_OFF for node in achieved)


_PIPES: Mapping[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "text": True,
}


def _spin(seconds: float) -> list[str]:
    return [sys.executable, "-m", "tools.emulation.spin", str(seconds)]


def _results(processes: Mapping[str, subprocess.Popen[str]]) -> dict[str, Work]:
    """Starts each phase of all processes at once, when all are ready."""
    lines: dict[str, str] = {}
    while True:
        for name, process in processes.items():
            assert process.stdout is not None
            lines[name] = process.stdout.readline()
        if any(line != "ready\n" for line in lines.values()):
            break
        for process in processes.values():
            assert process.stdin is not None
            _go(process.stdin)
    for name, process in processes.items():
        process.communicate()
        if process.returncode != 0 or not lines[name]:
            msg = f"node {name!r}: the measurement of its speed ended with {process.returncode} and {lines[name]!r}: expected a result"
            raise MeasurementError(msg)
    return {name: _work(line) for name, line in lines.items()}


def _work(line: str) -> Work:
    values = json.loads(line)
    return Work(
        computing=Rate(**values["computing"]),
        reading=Rate(**values["reading"]),
        short_s=values["short_s"],
    )


def _go(stdin: IO[str]) -> None:
    stdin.write("go\n")
    stdin.flush()
