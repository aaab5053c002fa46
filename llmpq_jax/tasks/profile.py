"""Times a model on the devices of a cluster, with progress on stderr."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.profiler import ProfileOptions, profile
from llmpq_jax.report.console import log, progress_bar
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.tasks.kernel_notice import note_missing_kernels

# Relative change of a device's speed during a run that is worth a warning.
_DRIFT = 0.1


def measure(
    model: Path,
    cluster: Cluster,
    out: Path,
    options: ProfileOptions,
    *,
    overwrites: bool = False,
) -> Measurements:
    """Measures with a progress bar, and warns of devices whose speed drifted.

    Raises:
        MeasurementError: A kind of device is not here, or the file to write holds
            measurements of other circumstances.
    """
    note_missing_kernels(node_device.name for node_device in cluster.node_devices)
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
            options,
            out=out,
            overwrites=overwrites,
            on_progress=on_progress,
        )
    for kind in dict.fromkeys(row.kind for row in measured.drift):
        last = [row for row in measured.drift if row.kind == kind][-1]
        if not 1 - _DRIFT <= last.fastest <= last.slowest <= 1 + _DRIFT:
            log(
                f"warning: {kind} drifted while it was measured: the same product took "
                f"{last.fastest:.2f} to {last.slowest:.2f} times as long as at first"
            )
    return measured
