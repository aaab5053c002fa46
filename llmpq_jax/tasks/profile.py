"""Measures a model on a cluster file's devices, with progress on stderr."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from llmpq_jax.profiler import profile
from llmpq_jax.profiler.grid import Grid
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.report.console import progress_bar, tell
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.precision import Activations, KvBits
from llmpq_jax.tasks.kernel_notice import note_missing_kernels

# So much slower or faster than at first is told.
_DRIFT = 0.1


def measure(
    model: Path,
    cluster: Cluster,
    out: Path,
    *,
    grid: Grid,
    activations: Activations,
    group_size: Literal[32, 64, 128] = 128,
    kv_bits: KvBits = 16,
    tensor_widths: tuple[int, ...] = (1,),
    kinds: Collection[str] | None = None,
    overwrites: bool = False,
    stopwatch: Stopwatch | None = None,
) -> Measurements:
    """Measures with a bar on stderr, see `profiler.measure_model.profile`.

    Args:
        model: The checkpoint's folder.
        cluster: Whose devices.
        out: The file, appended to row by row.
        grid: At which sizes.
        activations: Type of hidden states and cache.
        group_size: Of int4.
        kv_bits: Of the cache.
        tensor_widths: Over how many devices layers are spread.
        kinds: Only these kinds of device.
        overwrites: Start the file anew instead of going on where it ends.
        stopwatch: Times calls; the usual one if absent.

    Raises:
        MeasurementError: A kind of device is not here, or the file holds measurements
            of other circumstances.
    """
    note_missing_kernels(node_devices.name for node_devices in cluster.node_devices)
    with progress_bar("measuring", None, unit="rows") as advance:
        num_done = 0

        def on_progress(done: int, total: int, what: str) -> None:
            nonlocal num_done
            del what
            advance(done - num_done, total)
            num_done = done

        measured = profile(
            model,
            cluster,
            activations=activations,
            group_size=group_size,
            kv_bits=kv_bits,
            tensor_widths=tensor_widths,
            grid=grid,
            kinds=kinds,
            out=out,
            overwrites=overwrites,
            stopwatch=stopwatch or Stopwatch(),
            on_progress=on_progress,
        )
    for kind in dict.fromkeys(row.kind for row in measured.drift):
        last = [row for row in measured.drift if row.kind == kind][-1]
        if not 1 - _DRIFT <= last.fastest <= last.slowest <= 1 + _DRIFT:
            tell(
                f"warning: {kind} drifted while it was measured: the same product took "
                f"{last.fastest:.2f} to {last.slowest:.2f} times as long as at first"
            )
    return measured
