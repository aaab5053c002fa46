"""Measures a model on a cluster file's devices, with progress on stderr."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from llmpq_jax.profiler import profile
from llmpq_jax.profiler.grid import Grid
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.report.console import progress_bar
from llmpq_jax.spec.cluster import Cluster
from llmpq_jax.spec.measurements import Measurements
from llmpq_jax.spec.precision import Activations, KvBits
from llmpq_jax.workflow.kernels import tell_of_missing_kernels


def measure(
    model: Path,
    cluster: Cluster,
    out: Path,
    *,
    grid: Grid,
    activations: Activations,
    group_size: Literal[32, 64, 128] = 128,
    kv_bits: KvBits = 16,
    kinds: Collection[str] | None = None,
    least_sample_s: float = 0.0,
    overwrites: bool = False,
) -> Measurements:
    """Measures with a bar on stderr, see `profiler.profile.profile`.

    Args:
        model: The checkpoint's folder.
        cluster: Whose devices.
        out: The file, appended to row by row.
        grid: At which sizes.
        activations: Type of hidden states and cache.
        group_size: Of int4.
        kv_bits: Of the cache.
        kinds: Only these kinds of device.
        least_sample_s: See `Stopwatch`.
        overwrites: Start the file anew instead of going on where it ends.

    Raises:
        MeasurementError: A kind of device is not here, or the file holds measurements
            of other circumstances.
    """
    tell_of_missing_kernels(placed.name for placed in cluster.placed)
    with progress_bar("measuring", None, unit="rows") as advance:
        num_done = 0

        def on_progress(done: int, total: int, what: str) -> None:
            nonlocal num_done
            del what
            advance(done - num_done, total)
            num_done = done

        return profile(
            model,
            cluster,
            activations=activations,
            group_size=group_size,
            kv_bits=kv_bits,
            grid=grid,
            kinds=kinds,
            stopwatch=Stopwatch(least_sample_s=least_sample_s),
            out=out,
            overwrites=overwrites,
            on_progress=on_progress,
        )
