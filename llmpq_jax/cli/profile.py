"""`llmpq-jax profile`: times a model's layers on the devices at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_jax.cli.options.engine import refuse_without
from llmpq_jax.cli.options.option_group import command, option, option_group
from llmpq_jax.cli.options.paths import OutputFile
from llmpq_jax.cli.options.problem import fixed_workload
from llmpq_jax.cli.options.profiling import MODE, TIMING, ModeOptions, TimingOptions
from llmpq_jax.cli.options.shared import CLUSTER, MODEL, OVERWRITE, cache_home
from llmpq_jax.schema.workload import Workload

if TYPE_CHECKING:
    from llmpq_jax.schema.cluster import Cluster
    from llmpq_jax.schema.precision import Activations


@command(
    "profile",
    option_group(
        "Model, devices and output",
        model=MODEL,
        cluster=CLUSTER,
        out=option(
            "Measurements file to write, row by row. An interrupted run continues there.",
            OutputFile(is_read=True),
            required=True,
        ),
        overwrite=OVERWRITE,
    ),
    fixed_workload(Workload(batch=16, prompt_length=64, new_tokens=64)),
    TIMING,
    MODE,
)
def profile_command(
    model: Path,
    cluster: Path,
    out: Path,
    overwrite: bool,
    workload: Workload,
    timing: TimingOptions,
    mode: ModeOptions,
) -> None:
    """Time a model's layers on each kind of device.

    Layers are timed at each precision, in both phases, and at the sizes of plans for
    --batch, --prompt-length and --new-tokens. A few sizes between these are not used for
    predictions and show how accurate those are.
    """
    if mode.from_run is not None:
        from llmpq_jax.cli.profile_modes import calibrate

        calibrate(mode.from_run, model, cluster, out)
        return
    if mode.between_nodes:
        from llmpq_jax.cli.profile_modes import measure_links

        measure_links(model, cluster, out, workload, mode.address, mode.transport)
        return
    of_ray = {"--address": mode.address, "--transport": mode.transport}
    refuse_without("--between-nodes", of_ray)

    from llmpq_jax.profiler import ProfileOptions
    from llmpq_jax.profiler.grid import grid_for
    from llmpq_jax.report.console import print_paths, print_table
    from llmpq_jax.report.tables import accuracy_table, measurements_table
    from llmpq_jax.schema.record_files import read_cluster
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.profile import measure

    devices = read_cluster(cluster)
    keep_compiled(cache_home())
    measurements = None
    for kv_bits in timing.caches:
        options = ProfileOptions(
            activations=timing.activations or _usual_activations(devices),
            group_size=timing.group_size,
            bits=timing.bits,
            kv_bits=kv_bits,
            tensor_widths=timing.tensor_widths,
            grid=grid_for(workload, timing.thoroughness or "usual"),
            kinds=timing.kinds or None,
            stopwatch=timing.stopwatch(),
        )
        overwrites = overwrite and measurements is None
        measurements = measure(model, devices, out, options, overwrites=overwrites)
    assert measurements is not None
    print_table(measurements_table(measurements))
    if measurements.accuracy:
        print_table(accuracy_table(measurements))
    print_paths(written=out)


def _usual_activations(cluster: Cluster) -> Activations:
    platforms = {
        node_device.device.platform
        for node_device in cluster.node_devices
        if node_device.device.use != "never"
    }
    return "float32" if platforms == {"cpu"} else "bfloat16"
