"""`llmpq-jax profile`: times a model's layers on the devices at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.engine_options import (
    address_option,
    refuse_without,
    transport_option,
)
from llmpq_jax.cli.profile_modes import fold, measure_links
from llmpq_jax.cli.shared_options import (
    FILE,
    GROUP_SIZES,
    KV_BITS,
    OUT_FILE,
    batch_option,
    cache_home,
    cluster_option,
    kv_bits_option,
    model_option,
    new_tokens_option,
    prompt_length_option,
)

if TYPE_CHECKING:
    from llmpq_jax.profiler.grid import Thoroughness
    from llmpq_jax.runtime.engines.transport.config import TransportName
    from llmpq_jax.schema.cluster import Cluster
    from llmpq_jax.schema.precision import Activations


class _Widths(click.ParamType):
    """Numbers from 1 up with commas between, such as 1,2,4."""

    name = "widths"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        """Reads them, each once, in order."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(word.isdecimal() and int(word) for word in words):
            self.fail(
                f"found {value!r}, expected numbers from 1 up with commas between, "
                "such as 1,2,4",
                param,
                ctx,
            )
        return tuple(sorted({int(word) for word in words}))


@click.command("profile")
@model_option
@cluster_option
@click.option(
    "--out",
    type=OUT_FILE,
    required=True,
    metavar="FILE",
    help="Measurements, a row each as it is made; an interrupted run goes on there.",
)
@batch_option
@prompt_length_option
@new_tokens_option
@click.option(
    "--activations",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Type of hidden states and cache; by default float32 where all devices are "
    "CPUs, else bfloat16.",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    default="128",
    show_default=True,
    help="Weights that share an int4 scale, at most.",
)
@kv_bits_option
@click.option(
    "--tensor-widths",
    type=_Widths(),
    default="1",
    show_default=True,
    metavar="N,N,…",
    help="Over how many equal devices of a node layers are spread: `solve --tensor any` "
    "plans the widths that were measured, and no others.",
)
@click.option(
    "--quick",
    "thoroughness",
    flag_value="quick",
    help="Few sizes, few repeats: about a minute per kind for a small model.",
)
@click.option(
    "--full",
    "thoroughness",
    flag_value="full",
    help="Shorter lengths too, both caches, and repeats until times are steady.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Measure this kind of device alone; may be given again. So one file is filled "
    "on several machines.",
)
@click.option(
    "--sample-time",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Each sample is the mean of calls for so long. Take some ten periods where a "
    "quota shares the processor out in turns, as in containers.",
)
@click.option("--overwrite", is_flag=True, help="Start the file --out names anew.")
@click.option(
    "--from-run",
    type=FILE,
    metavar="RECORD",
    help="Measure nothing: fold what `generate --record` wrote into the file --out "
    "names, so that the next `solve` starts from what happened.",
)
@click.option(
    "--between-nodes",
    is_flag=True,
    help="Measure links alone: hidden states between every two nodes of the cluster "
    "file, both ways, over Ray as runs send them (docs/many-machines.md). --out names "
    "measurements of the nodes' devices.",
)
@address_option
@transport_option
def profile_command(
    model: Path,
    cluster: Path,
    out: Path,
    batch: int,
    prompt_length: int,
    new_tokens: int,
    activations: Activations | None,
    group_size: str,
    kv_bits: str,
    tensor_widths: tuple[int, ...],
    thoroughness: Thoroughness | None,
    kinds: tuple[str, ...],
    sample_time: float,
    overwrite: bool,
    from_run: Path | None,
    between_nodes: bool,
    address: str | None,
    transport: TransportName | None,
) -> None:
    """Time a model's layers on each kind of device.

    Times are taken at each precision, in both phases, and at the sizes that plans for
    --batch, --prompt-length and --new-tokens are made of. A few sizes between are left
    out of the predictions, and tell how far these are off.
    """
    if from_run is not None:
        fold(from_run, model, cluster, out)
        return
    from llmpq_jax.schema.workload import Workload

    workload = Workload(batch=batch, prompt_length=prompt_length, new_tokens=new_tokens)
    if between_nodes:
        measure_links(model, cluster, out, workload, address, transport)
        return
    refuse_without("--between-nodes", {"--address": address, "--transport": transport})

    from dataclasses import replace

    from llmpq_jax.profiler.grid import grid_for
    from llmpq_jax.profiler.stopwatch import FULL_STOPWATCH, QUICK_STOPWATCH, Stopwatch
    from llmpq_jax.report.console import say, show
    from llmpq_jax.report.tables import accuracy_table, measurements_table
    from llmpq_jax.schema.cluster_file import read_cluster
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.profile import measure

    devices = read_cluster(cluster)
    keep_compiled(cache_home())
    effort = thoroughness or "usual"
    caches = (KV_BITS["16"], KV_BITS["8"]) if effort == "full" else (KV_BITS[kv_bits],)
    stopwatches = {
        "quick": QUICK_STOPWATCH,
        "usual": Stopwatch(),
        "full": FULL_STOPWATCH,
    }
    measurements = None
    for cache in caches:
        measurements = measure(
            model,
            devices,
            out,
            grid=grid_for(workload, effort),
            activations=activations or _usual_activations(devices),
            group_size=GROUP_SIZES[int(group_size)],
            kv_bits=cache,
            tensor_widths=tensor_widths,
            kinds=kinds or None,
            overwrites=overwrite and measurements is None,
            stopwatch=replace(stopwatches[effort], min_sample_s=sample_time),
        )
    assert measurements is not None
    show(measurements_table(measurements))
    if measurements.accuracy:
        show(accuracy_table(measurements))
    say(f"written      {out}")


def _usual_activations(cluster: Cluster) -> Activations:
    platforms = {
        node_devices.device.platform
        for node_devices in cluster.node_devices
        if node_devices.device.use != "never"
    }
    return "float32" if platforms == {"cpu"} else "bfloat16"
