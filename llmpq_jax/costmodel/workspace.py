"""Temporary memory of compiled programs, never foretold below what was measured.

Of a prefill it follows from the blocks that it works in (`costmodel.prefill_memory`): measured
bytes are a multiple of those and a constant, lifted until none lies above. Of all else it
is a table over the sizes measured.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.costmodel.latency import (
    LAYER_FEATURES,
    VOCABULARY_LAYER_FEATURES,
    LayerKey,
    VocabularyLayer,
    VocabularyLayerKey,
)
from llmpq_jax.costmodel.monotone_table import MonotoneTable, fit_table
from llmpq_jax.costmodel.prefill_memory import prefill_shape, prefill_working_bytes
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS, bucket_length
from llmpq_jax.schema.measurements import LayerTime, Measurements, Phase
from llmpq_jax.schema.precision import Activations, Bits, HeadBits, KvBits
from llmpq_jax.schema.workload import MicroBatch, Workload

# The compiler places buffers by rules of thumb: some shapes take up to 9 % more.
_PREFILL_MARGIN = 1.10

# A multiple of the bytes, and a constant.
_LINE = ((1.0,), (0.0,))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceModel:
    """Bytes of workspace by kind of device.

    Attributes:
        architecture: Of the model.
        activations: Type of its hidden states.
        kv_bits: Of the cache.
        layers: By kind, phase, bits and tensor width: of prefill over bytes of
            `prefill_working_bytes`, of decode over (rows, tokens).
        vocabulary_layers: By kind, part and bits, over rows.
    """

    architecture: Architecture
    activations: Activations
    kv_bits: KvBits
    layers: dict[LayerKey, MonotoneTable]
    vocabulary_layers: dict[VocabularyLayerKey, MonotoneTable]

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
        slots = bucket_length(workload.context_length)
        if phase == "decode":
            return ceil(float(table(micro_batch.decode, slots)))
        worked_in = prefill_working_bytes(
            self.architecture,
            prefill_shape(
                rows=micro_batch.prefill,
                tokens=bucket_length(workload.prompt_length),
                slots=slots,
                chunk_tokens=micro_batch.chunk_tokens,
                cache_rows=micro_batch.decode,
            ),
            activations=self.activations,
            kv_bits=self.kv_bits,
            tensor=tensor,
        )
        return ceil(_PREFILL_MARGIN * float(table.fitted(worked_in)))

    def embedding_bytes(
        self, kind: str, *, workload: Workload, micro_batch: MicroBatch
    ) -> int:
        """Returns the workspace of embedding a micro-batch of either phase."""
        prompt = bucket_length(workload.prompt_length)
        rows = max(micro_batch.prefill * prompt, micro_batch.decode)
        return self.vocabulary_layer_bytes(kind, "embedding", 16, rows=rows)

    def head_bytes(self, kind: str, bits: HeadBits, *, micro_batch: MicroBatch) -> int:
        """Returns the workspace of the head on a micro-batch of either phase."""
        rows = max(micro_batch.prefill, micro_batch.decode)
        return self.vocabulary_layer_bytes(kind, "head", bits, rows=rows)

    def vocabulary_layer_bytes(
        self, kind: str, part: VocabularyLayer, bits: HeadBits, *, rows: int
    ) -> int:
        """Returns the workspace of an end on so many rows."""
        return ceil(float(self._end((kind, part, bits))(rows)))

    def _layer(self, key: LayerKey) -> MonotoneTable:
        if key not in self.layers:
            kind, phase, bits, tensor = key
            msg = f"measurements: no workspace of {phase} at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.layers[key]

    def _end(self, key: VocabularyLayerKey) -> MonotoneTable:
        if key not in self.vocabulary_layers:
            kind, part, bits = key
            msg = f"measurements: no workspace of the {part} at {bits} bits on {kind!r}: expected [[vocabulary_layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.vocabulary_layers[key]


def fit_workspace(
    measurements: Measurements,
    architecture: Architecture,
    *,
    kv_bits: KvBits = 16,
) -> WorkspaceModel:
    """Fits every table of workspace that the measurements allow.

    Args:
        measurements: Of the model.
        architecture: Of the model.
        kv_bits: Rows of this cache alone are used.
    """
    activations = measurements.activations
    on_cpus = {each.kind for each in measurements.kinds if each.platform == "cpu"}
    layers: dict[LayerKey, list[LayerTime]] = defaultdict(list)
    for row in measurements.layers:
        if row.kv_bits == kv_bits:
            layers[row.kind, row.phase, row.bits, row.tensor].append(row)
    ends: dict[VocabularyLayerKey, list[tuple[int, int]]] = defaultdict(list)
    for row in measurements.vocabulary_layers:
        ends[row.kind, row.part, row.bits].append((row.rows, row.workspace_bytes))

    def place(row: LayerTime) -> tuple[int, ...]:
        """Says where a row stands on the axes of its table."""
        if row.phase == "decode":
            return row.batch, row.length
        shape = prefill_shape(
            rows=row.batch,
            tokens=row.length,
            slots=row.length if row.slots is None else row.slots,
            chunk_tokens=PREFILL_CHUNK_TOKENS,
            cache_rows=row.batch,
        )
        worked_in = prefill_working_bytes(
            architecture,
            shape,
            activations=activations,
            kv_bits=kv_bits,
            tensor=row.tensor,
        )
        return (worked_in,)

    def fitted(key: LayerKey, rows: list[LayerTime]) -> MonotoneTable:
        kind, phase, *_ = key
        table = fit_table(
            [place(row) for row in rows],
            [row.workspace_bytes for row in rows],
            LAYER_FEATURES["decode"] if phase == "decode" else _LINE,
            is_upper=True,
        )
        if phase == "prefill" and kind in on_cpus:
            # These bytes are XLA's there. What it saves at the shapes that happened to
            # be measured it may need at others.
            multiple, constant = table.coefficients
            return replace(table, coefficients=np.array([max(1.0, multiple), constant]))
        return table

    return WorkspaceModel(
        architecture=architecture,
        activations=activations,
        kv_bits=kv_bits,
        layers={key: fitted(key, rows) for key, rows in layers.items()},
        vocabulary_layers={
            key: fit_table(
                [row[:1] for row in rows],
                [row[1] for row in rows],
                VOCABULARY_LAYER_FEATURES,
                is_upper=True,
            )
            for key, rows in ends.items()
        },
    )
