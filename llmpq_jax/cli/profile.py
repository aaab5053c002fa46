"""`llmpq-jax profile`: times a model's layers on the devices at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options.engine import ADDRESS, TRANSPORT, refuse_without
from llmpq_jax.cli.options.option_group import OptionGroup, command
from llmpq_jax.cli.options.problem import fixed_workload
from llmpq_jax.cli.options.shared import (
    CLUSTER,
    FILE,
    GROUP_SIZE,
    MODEL,
    OUT_FILE,
    cache_home,
    choice,
)
from llmpq_jax.cli.profile_modes import calibrate, measure_links
from llmpq_jax.schema.workload import Workload

if TYPE_CHECKING:
    from llmpq_jax.profiler.grid import Thoroughness
    from llmpq_jax.profiler.stopwatch import Stopwatch
    from llmpq_jax.runtime.engines.transport.config import TransportName
    from llmpq_jax.schema.cluster import Cluster
    from llmpq_jax.schema.precision import Activations, KvBits


class _WidthsType(click.ParamType[Any]):
    """Reads numbers from 1 up with commas between, such as 1,2,4."""

    name = "widths"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        """Returns the numbers in ascending order, each once."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingOptions:
    """What is timed and how long, as typed; the options' help says what each means."""

    activations: Activations | None
    group_size: int
    kv_bits: KvBits
    tensor_widths: tuple[int, ...]
    kinds: tuple[str, ...]
    thoroughness: Thoroughness | None
    sample_time: float

    @property
    def caches(self) -> tuple[KvBits, ...]:
        """Precisions of the cache that are timed, one after the other."""
        return (16, 8) if self.thoroughness == "full" else (self.kv_bits,)

    def stopwatch(self) -> Stopwatch:
        """Returns the timer that is as thorough as typed."""
        from dataclasses import replace

        from llmpq_jax.profiler import stopwatch

        usual = {
            "quick": stopwatch.QUICK_STOPWATCH,
            "full": stopwatch.FULL_STOPWATCH,
        }.get(self.thoroughness or "usual") or stopwatch.Stopwatch()
        return replace(usual, min_sample_s=self.sample_time)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeOptions:
    """What is done instead of timing layers; the options' help says what each means."""

    from_run: Path | None
    between_nodes: bool
    address: str | None
    transport: TransportName | None


TIMING = OptionGroup(
    title="What is timed",
    record=TimingOptions,
    parameter="timing",
    options=(
        click.Option(
            ["--activations"],
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Type of hidden states and cache (default: float32 if all devices are "
            "CPUs, else bfloat16).",
        ),
        GROUP_SIZE,
        choice(
            "--kv-bits",
            values={"8": 8, "16": 16},
            default="16",
            help="Precision of the key-value cache; 16 keeps it in the type of the "
            "activations.",
        ),
        click.Option(
            ["--tensor-widths"],
            type=_WidthsType(),
            default="1",
            show_default=True,
            metavar="N,N,…",
            help="Numbers of equal devices of a node that layers are split over. "
            "`solve --tensor any` plans with the measured numbers alone.",
        ),
        click.Option(
            ["--kind", "kinds"],
            multiple=True,
            metavar="KIND",
            help="Measure this kind of device alone, so that one file can be filled on "
            "several machines. May be repeated.",
        ),
        click.Option(
            ["--quick", "thoroughness"],
            flag_value="quick",
            help="Time few sizes with few repeats: about a minute per kind of device "
            "for a small model.",
        ),
        click.Option(
            ["--full", "thoroughness"],
            flag_value="full",
            help="Time shorter lengths and both precisions of the cache too, and repeat "
            "until times are steady.",
        ),
        click.Option(
            ["--sample-time"],
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            metavar="SECONDS",
            help="Minimum time of a sample, which is the mean of repeated calls. If a "
            "quota shares out the processor in turns, as in containers, use about ten "
            "of its periods.",
        ),
    ),
)
MODE = OptionGroup(
    title="Instead of timing layers",
    record=ModeOptions,
    parameter="mode",
    options=(
        click.Option(
            ["--from-run"],
            type=FILE,
            metavar="RECORD",
            help="Calibrate the --out file by a run record from `generate --record`, so "
            "that the next `solve` predicts what happened.",
        ),
        click.Option(
            ["--between-nodes"],
            is_flag=True,
            help="Measure the links between every two nodes of the cluster file alone, "
            "in both directions, over Ray as runs use them (docs/many-machines.md). "
            "--out names measurements of the nodes' devices.",
        ),
        ADDRESS,
        TRANSPORT,
    ),
)


@command(
    "profile",
    OptionGroup(
        title="Model, devices and output",
        options=(
            MODEL,
            CLUSTER,
            click.Option(
                ["--out"],
                type=OUT_FILE,
                required=True,
                metavar="FILE",
                help="Measurements file to write, row by row. An interrupted run "
                "continues there.",
            ),
            click.Option(
                ["--overwrite"], is_flag=True, help="Replace an existing --out file."
            ),
        ),
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
        calibrate(mode.from_run, model, cluster, out)
        return
    if mode.between_nodes:
        measure_links(model, cluster, out, workload, mode.address, mode.transport)
        return
    of_ray = {"--address": mode.address, "--transport": mode.transport}
    refuse_without("--between-nodes", of_ray)

    from llmpq_jax.profiler import ProfileOptions
    from llmpq_jax.profiler.grid import grid_for
    from llmpq_jax.report.console import print_line, print_table
    from llmpq_jax.report.tables import accuracy_table, measurements_table
    from llmpq_jax.schema.cluster_file import read_cluster
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.profile import measure

    devices = read_cluster(cluster)
    keep_compiled(cache_home())
    measurements = None
    for kv_bits in timing.caches:
        options = ProfileOptions(
            activations=timing.activations or _usual_activations(devices),
            group_size=timing.group_size,
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
    print_line(f"written      {out}")


def _usual_activations(cluster: Cluster) -> Activations:
    platforms = {
        node_device.device.platform
        for node_device in cluster.node_devices
        if node_device.device.use != "never"
    }
    return "float32" if platforms == {"cpu"} else "bfloat16"
