"""Emulates the nodes of a cluster file, of unequal speed and memory, on one machine.

    python -m tools.emulate_cluster measure speeds.toml
    python -m tools.emulate_cluster exec speeds.toml slow -- COMMAND…
    python -m tools.emulate_cluster profile speeds.toml --out measurements.toml -- --model …
    python -m tools.emulate_cluster start speeds.toml [-- COMMAND…]

tools/emulation/README.md describes the limits and their accuracy. However a command
ends, its nodes' processes and control groups end with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from llmpq_jax.errors import LlmpqError
from llmpq_jax.report.console import log, print_table
from llmpq_jax.report.table_style import ReportTable, new_table
from tools.emulation.achieved import (
    Achieved,
    check_achieved,
    measure_achieved,
    measure_alone,
)
from tools.emulation.nodes import EmulatedNodes, Limiter
from tools.emulation.profiles import profile_nodes
from tools.emulation.ray_nodes import RayNodes
from tools.emulation.speeds import read_emulation


@click.group()
def main() -> None:
    """Emulate a cluster of unequal nodes on this machine."""


def _with_nodes(*, measured: bool) -> Callable[..., Any]:
    """Decorates a command that receives the nodes; errors are one line.

    Args:
        measured: Whether to measure the nodes first, and stop if a speed is off.
    """
    return partial(_decorated, measured)


def _decorated(measured: bool, command: Callable[..., Any]) -> Callable[..., Any]:

    @click.argument("speeds", type=click.Path(path_type=Path))
    @click.option(
        "--limiter",
        type=click.Choice(["control groups", "duty cycle"]),
        help="Limits speeds; by default control groups where they can be made.",
    )
    @click.option(
        "--group",
        metavar="PATH",
        help="Make control groups in this one, as /proc/self/cgroup writes it; by "
        "default in the root, if this process is there.",
    )
    @wraps(command)
    def with_nodes(
        speeds: Path, limiter: Limiter | None, group: str | None, **arguments: Any
    ) -> None:
        try:
            with _emulated(speeds, limiter, group, measured=measured) as nodes:
                command(nodes, **arguments)
        except (LlmpqError, OSError) as reason:
            raise click.ClickException(str(reason)) from reason

    return with_nodes


@contextmanager
def _emulated(
    path: Path, limiter: Limiter | None, group: str | None, *, measured: bool
) -> Iterator[EmulatedNodes]:
    # SIGTERM ends the nodes too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    emulation = read_emulation(path, frozenset(os.sched_getaffinity(0)))
    alone = measure_alone(emulation.speeds) if measured else None
    with EmulatedNodes(emulation, limiter=limiter, within=group) as nodes:
        log(f"speed by {nodes.speed_limiter}, memory by {nodes.memory_limiter}")
        if alone is not None:
            achieved = measure_achieved(nodes, alone)
            check_achieved(achieved)
            print_table(achieved_table(achieved))
        yield nodes


@main.command()
@_with_nodes(measured=True)
def measure(nodes: EmulatedNodes) -> None:
    """Measure the nodes of SPEEDS, all at once."""


@main.command("exec")
@_with_nodes(measured=False)
@click.argument("node")
@click.argument("command", nargs=-1, required=True)
def execute(nodes: EmulatedNodes, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND inside NODE of SPEEDS, and exit with its code."""
    sys.exit(_ended(nodes.start(node, command)))


@main.command()
@_with_nodes(measured=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.argument("arguments", nargs=-1)
def profile(nodes: EmulatedNodes, out: Path, arguments: tuple[str, ...]) -> None:
    """Measure all kinds of device, all nodes at once, into one file.

    ARGUMENTS are passed to `llmpq-jax profile`, after cluster, kind and file.
    """
    profile_nodes(nodes, out, arguments, on_note=log)
    log(f"written {out}")


@main.command()
@_with_nodes(measured=True)
@click.argument("command", nargs=-1)
def start(nodes: EmulatedNodes, command: tuple[str, ...]) -> None:
    """Start a Ray node in each node of SPEEDS until COMMAND ends.

    COMMAND finds the cluster by RAY_ADDRESS and has no limits. Without COMMAND, Ctrl-C
    stops the nodes.
    """
    with RayNodes(nodes) as cluster:
        log(f"RAY_ADDRESS={cluster.address}")
        if not command:
            log("Ctrl-C stops the nodes")
            signal.pause()
        environment = {
            **os.environ,
            **cluster.environment,
            "RAY_ADDRESS": cluster.address,
        }
        code = _ended(subprocess.Popen(command, env=environment))
    sys.exit(code)


def achieved_table(achieved: Sequence[Achieved]) -> ReportTable:
    """Shows measured speeds, compared with the file's."""
    table = new_table(
        "Speeds while all nodes compute, relative to one processor without limits",
        "node",
        right=(
            "asked",
            "processor time",
            "computing",
            "off",
            "reading memory",
            "after a pause",
        ),
    )
    for node in achieved:
        table.add_row(
            node.name,
            f"{node.asked:g}",
            f"{node.processor_share:.3f}",
            f"{node.speed:.3f}",
            f"{node.off:+.1%}",
            f"{node.memory_speed:.3f}",
            f"{node.short_speed:.3f}",
        )
    return table


def _ended(process: subprocess.Popen[Any]) -> int:
    """Waits for a process and returns its exit code, as a shell gives it."""
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
