"""Options of `profile`: what is timed, and what is done instead of timing layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options.engine import ADDRESS, TRANSPORT
from llmpq_jax.cli.options.option_group import OptionGroup
from llmpq_jax.cli.options.shared import FILE, GROUP_SIZE, choice

if TYPE_CHECKING:
    from llmpq_jax.profiler.grid import Thoroughness
    from llmpq_jax.profiler.stopwatch import Stopwatch
    from llmpq_jax.runtime.engines.transport.config import TransportName
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
