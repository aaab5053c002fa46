"""What a profile measures and how thoroughly, and what its steps share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import jax

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.profiler.grid import QUICKSTART_GRID, Grid, Shape
from llmpq_jax.profiler.journal import Journal
from llmpq_jax.profiler.stage_bench import StageBench, StageContents
from llmpq_jax.profiler.stopwatch import Stopwatch, Timing, summary_of_rounds
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.precision import USUAL_BITS, Activations, Bits, KvBits
from llmpq_jax.stage.emulated_devices import JaxDevice

Key = TypeVar("Key")
# Rounds of few and short calls are then some time apart as well.
_BETWEEN_ROUNDS_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """Options of one run of the profiler.

    Attributes:
        activations: Type of hidden states and cache.
        group_size: Largest number of int4 weights that share a scale.
        bits: Bit widths of layers, in the order they are measured.
        kv_bits: Bit width of the cache.
        tensor_widths: Numbers of equal devices of a node that layers are split over. A
            kind that has fewer on its node is measured at the widths it allows.
        grid: Sizes that are timed.
        kinds: Kinds of device to measure; None for all kinds of the cluster.
        stopwatch: Timer that decides how often a call is repeated.
    """

    activations: Activations
    group_size: int = 128
    bits: tuple[Bits, ...] = USUAL_BITS
    kv_bits: KvBits = 16
    tensor_widths: tuple[int, ...] = (1,)
    grid: Grid = QUICKSTART_GRID
    kinds: Collection[str] | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """One run of the profiler.

    Attributes:
        architecture: Architecture of the model.
        options: Sizes, precisions and widths to measure.
        num_stacked: Number of layers that are timed together.
        journal: Rows measured so far, and their file.
        on_row: Callback with the name of each row that is measured or left out, and the
            part of it that was done.
    """

    architecture: Architecture
    options: ProfileOptions
    num_stacked: int
    journal: Journal
    on_row: Callable[[str, float], None]

    def bench(
        self, devices: Sequence[JaxDevice], contents: StageContents
    ) -> StageBench:
        """Builds a stage of this session's model on devices that share it."""
        return StageBench(
            self.architecture,
            devices,
            contents,
            activations=self.options.activations,
            group_size=self.options.group_size,
            kv_bits=self.options.kv_bits,
        )

    def time(
        self,
        bench: StageBench,
        wanted: Mapping[Key, tuple[Phase, Shape, str]],
        *,
        baseline: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Key, Timing, int]]:
        """Times a stage on several micro-batches, which take turns in each round.

        `wanted` has the phase and shape of each, and its name in progress reports.

        Yields:
            Key, timing and bytes of workspace of each micro-batch in the last round.
            Those that do not fit the device are left out: no plan can use them there
            either.
        """
        num_rounds = self.options.stopwatch.rounds
        left = dict(wanted)
        samples: dict[Key, list[list[float]]] = {key: [] for key in wanted}
        for number in range(num_rounds):
            if number:
                self.options.stopwatch.sleep(_BETWEEN_ROUNDS_S)
            for key, (phase, shape, what) in tuple(left.items()):
                try:
                    workspace_bytes = bench.workspace_bytes(phase, shape)
                    taken = self.options.stopwatch.samples(
                        bench.call(phase, shape),
                        baseline=baseline,
                        num_rounds=num_rounds,
                    )
                except jax.errors.JaxRuntimeError as reason:
                    if "RESOURCE_EXHAUSTED" not in str(reason):
                        raise
                    del left[key]
                    rest = 1 - number / num_rounds
                    self.on_row(f"{what}: does not fit, left out", rest)
                    continue
                finally:
                    bench.free()
                samples[key].append(taken)
                self.on_row(what, 1 / num_rounds)
                if number == num_rounds - 1:
                    yield key, summary_of_rounds(samples[key]), workspace_bytes
