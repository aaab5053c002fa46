"""Profiles all nodes at once, as they run in a pipeline, into one measurements file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmpq_jax.errors import MeasurementError
from llmpq_jax.files import write_text
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.toml import to_toml
from tools.emulation.nodes import EmulatedNodes

# The turns within a period would show in shorter samples.
_PERIODS_A_SAMPLE = 8
_LOOK_S = 0.2
_COMMENT = """\
Measurements of llmpq-jax, one kind of device per emulated node, made while all nodes
computed. Made by `python -m tools.emulate_cluster profile`."""


def profile_nodes(
    nodes: EmulatedNodes,
    out: Path,
    arguments: Sequence[str],
    *,
    on_note: Callable[[str], None],
) -> None:
    """Runs `llmpq-jax profile` in every node and joins the results, one node per kind.

    Nodes share the machine's memory and caches, so a node that is done repeats its work,
    without using it, until the last one is done. Until then each node has a file of its
    own next to `out`, from which an interrupted run continues.

    Args:
        nodes: Nodes whose devices are measured.
        out: Path of the file to write.
        arguments: Arguments of `llmpq-jax profile`, besides cluster, kind, file and
            sample time.
        on_note: Callback for a line about each node that is done.

    Raises:
        MeasurementError: If a node's profile fails, or a node has devices of several
            kinds.
    """
    kinds = {
        node.name: {device.kind for device in node.devices if device.use != "never"}
        for node in nodes.emulation.cluster.nodes
    }
    for name, held in kinds.items():
        if len(held) != 1:
            msg = f"node {name!r} has devices of the kinds {sorted(held)}: expected one kind in each node"
            raise MeasurementError(msg)
    files = {name: out.with_name(f"{out.stem}.{name}.toml") for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        spare = Path(folder)

        def start(name: str, file: Path) -> subprocess.Popen[Any]:
            (kind,) = kinds[name]
            sample_s = _PERIODS_A_SAMPLE * nodes.emulation.speeds.period_s
            command = [sys.executable, "-m", "llmpq_jax", "profile"]
            command += ["--cluster", str(nodes.emulation.cluster_path)]
            command += ["--kind", kind, "--out", str(file)]
            command += ["--sample-time", str(sample_s), *arguments]
            with (spare / f"{name}.log").open("w") as log:
                return nodes.start(name, command, stdout=log, stderr=log)

        running = {name: start(name, file) for name, file in files.items()}
        waiting = set(running)
        while waiting:
            time.sleep(_LOOK_S)
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                if process.returncode != 0:
                    last = (spare / f"{name}.log").read_text().strip().splitlines()
                    msg = f"node {name!r}: llmpq-jax profile ended with {process.returncode}: {last[-1] if last else 'no output'}"
                    raise MeasurementError(msg)
                if name in waiting:
                    waiting.discard(name)
                    on_note(f"{name} is measured; {len(waiting)} to go")
                (spare / f"{name}.toml").unlink(missing_ok=True)
                running[name] = start(name, spare / f"{name}.toml")
        nodes.end(running.values())
    measured = joined([read_measurements(file) for file in files.values()])
    write_text(out, to_toml(measured, comment=_COMMENT))
    for file in files.values():
        file.unlink()


def joined(parts: Sequence[Measurements]) -> Measurements:
    """Joins measurements; each kind's rows are those of the first part that has it."""
    whole = parts[0]
    for part in parts[1:]:
        known = {row.kind for row in whole.kinds}
        new = {row.kind for row in part.kinds} - known
        whole = replace(
            whole,
            kinds=whole.kinds + tuple(row for row in part.kinds if row.kind in new),
            layers=whole.layers + tuple(row for row in part.layers if row.kind in new),
            vocabulary_layers=whole.vocabulary_layers
            + tuple(row for row in part.vocabulary_layers if row.kind in new),
        )
    return whole
