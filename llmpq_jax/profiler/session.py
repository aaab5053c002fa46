"""What the parts of a profile share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from llmpq_jax.profiler.bench import StageBench
from llmpq_jax.profiler.grid import Grid, Shape
from llmpq_jax.profiler.journal import Journal
from llmpq_jax.profiler.stopwatch import Stopwatch, Timing
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.measurements import Phase
from llmpq_jax.spec.precision import Activations, Bits, KvBits
from llmpq_jax.stage.devices import JaxDevice


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
        on_row: Hears of each row that is done, or left out.
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
    on_row: Callable[[str], None]

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
        phase: Phase,
        shape: Shape,
        what: str,
        *,
        less: Callable[[], object] | None = None,
    ) -> tuple[Timing, int] | None:
        """Times a stage on one micro-batch, `less` another call.

        Returns:
            The timing and the bytes of workspace; nothing where the micro-batch does
            not fit the device, which no plan can use there either.
        """
        try:
            workspace_bytes = bench.workspace_bytes(phase, shape)
            timing = self.stopwatch.time(bench.call(phase, shape), less=less)
        except jax.errors.JaxRuntimeError as reason:
            if "RESOURCE_EXHAUSTED" not in str(reason):
                raise
            self.on_row(f"{what}: does not fit, left out")
            return None
        finally:
            bench.free()
        self.on_row(what)
        return timing, workspace_bytes
