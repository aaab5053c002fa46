"""Temporary memory of compiled programs, never foretold below what was measured."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import ceil

from llmpq_jax.cost.latency import (
    END_FEATURES,
    LAYER_FEATURES,
    EndKey,
    LayerKey,
    Part,
)
from llmpq_jax.cost.tables import MonotoneTable, fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.spec.buckets import bucket_length
from llmpq_jax.spec.measurements import Measurements, Phase
from llmpq_jax.spec.precision import Bits, HeadBits
from llmpq_jax.spec.workload import MicroBatch, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceModel:
    """Bytes of workspace by kind of device.

    Attributes:
        layers: By kind, phase, bits and tensor width, over (rows, tokens).
        ends: By kind, part and bits, over rows.
    """

    layers: dict[LayerKey, MonotoneTable]
    ends: dict[EndKey, MonotoneTable]

    def layer_bytes(
        self,
        kind: str,
        bits: Bits,
        *,
        workload: Workload,
        micro_batch: MicroBatch,
        tensor: int = 1,
    ) -> int:
        """Returns the larger workspace of a layer's two programs."""
        phases: tuple[Phase, ...] = ("prefill", "decode")
        return max(
            self.layer_phase_bytes(
                kind,
                bits,
                phase,
                workload=workload,
                micro_batch=micro_batch,
                tensor=tensor,
            )
            for phase in (phases if workload.new_tokens > 1 else phases[:1])
        )

    def layer_phase_bytes(
        self,
        kind: str,
        bits: Bits,
        phase: Phase,
        *,
        workload: Workload,
        micro_batch: MicroBatch,
        tensor: int = 1,
    ) -> int:
        """Returns the workspace of a layer's program of one phase."""
        table = self._layer((kind, phase, bits, tensor))
        if phase == "prefill":
            rows, tokens = micro_batch.prefill, workload.prompt_length
        else:
            rows, tokens = micro_batch.decode, workload.context_length
        return ceil(float(table(rows, bucket_length(tokens))))

    def embedding_bytes(
        self, kind: str, *, workload: Workload, micro_batch: MicroBatch
    ) -> int:
        """Returns the workspace of embedding a micro-batch of either phase."""
        prompt = bucket_length(workload.prompt_length)
        rows = max(micro_batch.prefill * prompt, micro_batch.decode)
        return self.end_bytes(kind, "embedding", 16, rows=rows)

    def head_bytes(self, kind: str, bits: HeadBits, *, micro_batch: MicroBatch) -> int:
        """Returns the workspace of the head on a micro-batch of either phase."""
        rows = max(micro_batch.prefill, micro_batch.decode)
        return self.end_bytes(kind, "head", bits, rows=rows)

    def end_bytes(self, kind: str, part: Part, bits: HeadBits, *, rows: int) -> int:
        """Returns the workspace of an end on so many rows."""
        return ceil(float(self._end((kind, part, bits))(rows)))

    def _layer(self, key: LayerKey) -> MonotoneTable:
        if key not in self.layers:
            kind, phase, bits, tensor = key
            msg = f"measurements: no workspace of {phase} at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.layers[key]

    def _end(self, key: EndKey) -> MonotoneTable:
        if key not in self.ends:
            kind, part, bits = key
            msg = f"measurements: no workspace of the {part} at {bits} bits on {kind!r}: expected [[end]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.ends[key]


def fit_workspace(measurements: Measurements) -> WorkspaceModel:
    """Fits every table of workspace that the measurements allow."""
    layers: dict[LayerKey, list[tuple[int, int, int]]] = defaultdict(list)
    for row in measurements.layers:
        key = (row.kind, row.phase, row.bits, row.tensor)
        layers[key].append((row.batch, row.length, row.workspace_bytes))
    ends: dict[EndKey, list[tuple[int, int]]] = defaultdict(list)
    for row in measurements.ends:
        ends[row.kind, row.part, row.bits].append((row.rows, row.workspace_bytes))
    return WorkspaceModel(
        layers={
            key: fit_table(
                [row[:2] for row in rows],
                [row[2] for row in rows],
                LAYER_FEATURES[key[1]],
                is_upper=True,
            )
            for key, rows in layers.items()
        },
        ends={
            key: fit_table(
                [row[:1] for row in rows],
                [row[1] for row in rows],
                END_FEATURES,
                is_upper=True,
            )
            for key, rows in ends.items()
        },
    )
