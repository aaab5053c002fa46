"""Temporary memory of compiled programs, never foretold below what was measured."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import ceil

from llmpq_jax.cost.latency import END_FEATURES, LAYER_FEATURES, EndKey, LayerKey
from llmpq_jax.cost.tables import MonotoneTable, fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.spec.buckets import bucket_length
from llmpq_jax.spec.measurements import Measurements
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
        prompt = bucket_length(workload.prompt_length)
        context = bucket_length(workload.context_length)
        prefill = self._layer((kind, "prefill", bits, tensor))
        need = float(prefill(micro_batch.prefill, prompt))
        if workload.new_tokens > 1:
            decode = self._layer((kind, "decode", bits, tensor))
            need = max(need, float(decode(micro_batch.decode, context)))
        return ceil(need)

    def embedding_bytes(
        self, kind: str, *, workload: Workload, micro_batch: MicroBatch
    ) -> int:
        """Returns the workspace of embedding a micro-batch of either phase."""
        prompt = bucket_length(workload.prompt_length)
        rows = max(micro_batch.prefill * prompt, micro_batch.decode)
        return ceil(float(self._end((kind, "embedding", 16))(rows)))

    def head_bytes(self, kind: str, bits: HeadBits, *, micro_batch: MicroBatch) -> int:
        """Returns the workspace of the head on a micro-batch of either phase."""
        rows = max(micro_batch.prefill, micro_batch.decode)
        return ceil(float(self._end((kind, "head", bits))(rows)))

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
