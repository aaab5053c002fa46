"""Options of `profile`: what is timed, and what is done instead of timing layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.options.engine import ADDRESS, TRANSPORT
from llmpq_jax.cli.options.option_group import (
    choice,
    flag,
    flags,
    option,
    option_group,
    option_record,
)
from llmpq_jax.cli.options.shared import FILE, FROM_ZERO, GROUP_SIZE, bits_option

if TYPE_CHECKING:
    from llmpq_jax.profiler.grid import Thoroughness
    from llmpq_jax.profiler.stopwatch import Stopwatch
    from llmpq_jax.runtime.engines.transport import TransportName
    from llmpq_jax.schema.precision import Activations, Bits, KvBits


def _widths(value: str) -> tuple[int, ...]:
    """Reads numbers from 1 up, such as 1,2,4; returns them in ascending order."""
    words = [word.strip() for word in value.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        msg = f"found {value!r}, expected numbers from 1 up with commas between, such as 1,2,4"
        raise click.BadParameter(msg)
    return tuple(sorted({int(word) for word in words}))


@option_record
class TimingOptions:
    """What is timed and how long, as typed."""

    activations: Activations | None = option(
        "Type of hidden states and cache (default: float32 if all devices are CPUs, else "
        "bfloat16).",
        click.Choice(["float32", "bfloat16", "float16"]),
    )
    bits: tuple[Bits, ...] = bits_option(
        "Precisions of layers that are timed, of 32, 16, 8 and 4; with 32 also those of "
        "the embedding and the head."
    )
    group_size: int = GROUP_SIZE
    kv_bits: KvBits = choice(
        "Precision of the key-value cache; 16 keeps it in the type of the activations.",
        {"8": 8, "16": 16},
        "16",
    )
    tensor_widths: tuple[int, ...] = option(
        "Numbers of equal devices of a node that layers are split over. "
        "`solve --tensor any` plans with the measured numbers alone.",
        _widths,
        default="1",
        metavar="N,N,…",
    )
    kinds: tuple[str, ...] = option(
        "Measure this kind of device alone, so that one file can be filled on several "
        "machines. May be repeated.",
        name="--kind",
        multiple=True,
        metavar="KIND",
    )
    thoroughness: Thoroughness | None = flags(
        quick="Time few sizes with few repeats: about a minute per kind of device for a "
        "small model.",
        full="Time shorter lengths and both precisions of the cache too, and repeat "
        "until times are steady.",
    )
    sample_time: float = option(
        "Minimum time of a sample, which is the mean of repeated calls. If a quota "
        "shares out the processor in turns, as in containers, use about ten of its "
        "periods.",
        FROM_ZERO,
        default=0.0,
        metavar="SECONDS",
    )

    @property
    def caches(self) -> tuple[KvBits, ...]:
        """Precisions of the cache that are timed, one after the other."""
        return (16, 8) if self.thoroughness == "full" else (self.kv_bits,)

    def stopwatch(self) -> Stopwatch:
        """Returns the timer that is as thorough as typed."""
        from llmpq_jax.profiler import stopwatch

        usual = {
            "quick": stopwatch.QUICK_STOPWATCH,
            "full": stopwatch.FULL_STOPWATCH,
        }.get(self.thoroughness or "usual") or stopwatch.Stopwatch()
        return replace(usual, min_sample_s=self.sample_time)


@option_record
class ModeOptions:
    """What is done instead of timing layers, as typed."""

    from_run: Path | None = option(
        "Calibrate the --out file by a run record from `generate --record`, so that the "
        "next `solve` predicts what happened.",
        FILE,
        metavar="RECORD",
    )
    between_nodes: bool = flag(
        "Measure the links between every two nodes of the cluster file alone, in both "
        "directions, over Ray as runs use them (docs/many-machines.md). --out names "
        "measurements of the nodes' devices."
    )
    address: str | None = ADDRESS
    transport: TransportName | None = TRANSPORT


TIMING = option_group("What is timed", TimingOptions, "timing")
MODE = option_group("Instead of timing layers", ModeOptions, "mode")
