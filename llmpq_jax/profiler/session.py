"""What the parts of a profile share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import jax

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.profiler.grid import Grid, Shape
from llmpq_jax.profiler.journal import Journal
from llmpq_jax.profiler.stage_bench import StageBench
from llmpq_jax.profiler.stopwatch import Stopwatch, Timing, summary_of_rounds
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.precision import Activations, Bits, KvBits
from llmpq_jax.stage.emulated_devices import JaxDevice

Key = TypeVar("Key")
# So that visits to few and short calls are some time apart as well.
_BETWEEN_ROUNDS_S = 0.05


class OnRow(Protocol):
    """Hears of rows."""

    def __call__(self, what: str, part: float = 1.0, /) -> None:
        """Is told what is done, and what part of it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """One run of the profiler.

    Attributes:
        architecture: Of the model.
        activations: Type of hidden states and cache.
        group_size: Of int4.
        bits: Of layers, in the order they are measured.
        kv_bits: Of the cache.
        tensor_widths: Over how many devices layers are spread, as far as a node has them.
        grid: At which sizes.
        num_stacked: Layers that are timed together.
        stopwatch: Times calls.
        journal: Takes the rows.
        on_row: Hears of each row that is done, or left out; or of what part of it is.
    """

    architecture: Architecture
    activations: Activations
    group_size: int
    bits: tuple[Bits, ...]
    kv_bits: KvBits
    tensor_widths: tuple[int, ...]
    grid: Grid
    num_stacked: int
    stopwatch: Stopwatch
    journal: Journal
    on_row: OnRow

    def bench(
        self,
        *devices: JaxDevice,
        num_layers: int = 0,
        bits: Bits = 16,
        has_embedding: bool = False,
        has_head: bool = False,
    ) -> StageBench:
        """Builds a stage of this session's model, see `StageBench`."""
        return StageBench(
            self.architecture,
            *devices,
            activations=self.activations,
            group_size=self.group_size,
            num_layers=num_layers,
            bits=bits,
            kv_bits=self.kv_bits,
            has_embedding=has_embedding,
            has_head=has_head,
        )

    def time(
        self,
        bench: StageBench,
        wanted: Mapping[Key, tuple[Phase, Shape, str]],
        *,
        less: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Key, Timing, int]]:
        """Times a stage on micro-batches, which take turns; each is visited several times.

        Args:
            bench: The stage.
            wanted: Phase and shape of each micro-batch, and what it is called.
            less: A call whose time is taken off.

        Yields:
            Of each on its last visit the timing and the bytes of workspace; of those that
            do not fit the device nothing: no plan can use them there either.
        """
        visits = self.stopwatch.visits
        left = dict(wanted)
        samples: dict[Key, list[list[float]]] = {key: [] for key in wanted}
        for visit in range(visits):
            if visit:
                self.stopwatch.sleep(_BETWEEN_ROUNDS_S)
            for key, (phase, shape, what) in tuple(left.items()):
                try:
                    workspace_bytes = bench.workspace_bytes(phase, shape)
                    visited = self.stopwatch.samples(
                        bench.call(phase, shape), less=less, share=visits
                    )
                except jax.errors.JaxRuntimeError as reason:
                    if "RESOURCE_EXHAUSTED" not in str(reason):
                        raise
                    del left[key]
                    self.on_row(f"{what}: does not fit, left out", 1 - visit / visits)
                    continue
                finally:
                    bench.free()
                samples[key].append(visited)
                self.on_row(what, 1 / visits)
                if visit == visits - 1:
                    yield key, summary_of_rounds(samples[key]), workspace_bytes
