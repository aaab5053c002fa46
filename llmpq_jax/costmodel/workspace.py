"""Temporary memory of compiled programs, never predicted below what was measured.

For a prefill it follows from the sizes of its blocks (`costmodel.prefill_memory`): measured
bytes are fitted as a multiple of the computed bytes plus a constant, raised until no
measurement is above the line. For everything else it is a table over the measured sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.costmodel.latency import (
    LAYER_FEATURES,
    VOCABULARY_LAYER_FEATURES,
    LayerKey,
    VocabularyLayerKey,
)
from llmpq_jax.costmodel.monotone_table import MonotoneTable, fit_table
from llmpq_jax.costmodel.prefill_memory import (
    PrefillShape,
    prefill_shape,
    prefill_working_bytes,
)
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS, bucket_length
from llmpq_jax.schema.measurements import (
    PHASES,
    LayerTime,
    Measurements,
    Phase,
    VocabularyLayer,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import Activations, Bits, HeadBits, KvBits
from llmpq_jax.schema.workload import MicroBatch, Workload

# The compiler places buffers by heuristics: some shapes take up to 9 % more.
_PREFILL_MARGIN = 1.10

# Exponents over working bytes: a multiple of them, and a constant.
_LINE = ((1.0,), (0.0,))


@dataclass(frozen=True, kw_only=True, slots=True)
class _PrefillMemory:
    """Computes the working memory of a layer's prefill.

    Attributes:
        architecture: Architecture of the model.
        activations: Type of hidden states.
        kv_bits: Precision of the cache.
    """

    architecture: Architecture
    activations: Activations
    kv_bits: KvBits

    def working_bytes(self, shape: PrefillShape, tensor: int) -> int:
        return prefill_working_bytes(
            self.architecture,
            shape,
            activations=self.activations,
            kv_bits=self.kv_bits,
            tensor=tensor,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceModel:
    """Bytes of workspace on each kind of device.

    Attributes:
        prefill: Working memory of a prefill.
        layers: Bytes by kind, phase, bits and tensor width: of prefill over working
            bytes, of decode over (rows, tokens).
        vocabulary_layers: Bytes over rows, by kind, part and bits.
    """

    prefill: _PrefillMemory
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
        return max(
            self.layer_phase_bytes(
                kind,
                bits,
                phase,
                workload=workload,
                micro_batch=micro_batch,
                tensor=tensor,
            )
            for phase in (PHASES if workload.new_tokens > 1 else PHASES[:1])
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
        key = (kind, phase, bits, tensor)
        if key not in self.layers:
            msg = f"measurements: no workspace of {phase} at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        table, slots = self.layers[key], bucket_length(workload.context_length)
        if phase == "decode":
            return ceil(float(table(micro_batch.decode, slots)))
        shape = prefill_shape(
            rows=micro_batch.prefill,
            tokens=bucket_length(workload.prompt_length),
            slots=slots,
            chunk_tokens=micro_batch.chunk_tokens,
            cache_rows=micro_batch.decode,
        )
        working_bytes = self.prefill.working_bytes(shape, tensor)
        return ceil(_PREFILL_MARGIN * float(table.fitted(working_bytes)))

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
        """Returns the workspace of the embedding or the head on a number of rows."""
        key = (kind, part, bits)
        if key not in self.vocabulary_layers:
            msg = f"measurements: no workspace of the {part} at {bits} bits on {kind!r}: expected [[vocabulary_layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return ceil(float(self.vocabulary_layers[key](rows)))


def fit_workspace(
    measurements: Measurements,
    architecture: Architecture,
    *,
    kv_bits: KvBits = 16,
) -> WorkspaceModel:
    """Fits every table of workspace that the measurements allow.

    Args:
        measurements: Measurements of the model's layers.
        architecture: Architecture of the model.
        kv_bits: Precision of the cache, whose rows alone are used.
    """
    prefill = _PrefillMemory(
        architecture=architecture, activations=measurements.activations, kv_bits=kv_bits
    )
    cpus = {each.kind for each in measurements.kinds if each.platform == "cpu"}
    layers: dict[LayerKey, list[LayerTime]] = defaultdict(list)
    for row in measurements.layers:
        if row.kv_bits == kv_bits:
            layers[row.kind, row.phase, row.bits, row.tensor].append(row)
    others: dict[VocabularyLayerKey, list[VocabularyLayerTime]] = defaultdict(list)
    for other in measurements.vocabulary_layers:
        others[other.kind, other.part, other.bits].append(other)
    return WorkspaceModel(
        prefill=prefill,
        layers={
            key: _fit_decode(rows)
            if key[1] == "decode"
            else _fit_prefill(rows, prefill, is_cpu=key[0] in cpus)
            for key, rows in layers.items()
        },
        vocabulary_layers={
            key: fit_table(
                [(row.rows,) for row in rows],
                [row.workspace_bytes for row in rows],
                VOCABULARY_LAYER_FEATURES,
                is_upper=True,
            )
            for key, rows in others.items()
        },
    )


def _fit_decode(rows: Sequence[LayerTime]) -> MonotoneTable:
    return fit_table(
        [(row.batch, row.length) for row in rows],
        [row.workspace_bytes for row in rows],
        LAYER_FEATURES["decode"],
        is_upper=True,
    )


def _fit_prefill(
    rows: Sequence[LayerTime], prefill: _PrefillMemory, *, is_cpu: bool
) -> MonotoneTable:
    shapes = [
        prefill_shape(
            rows=row.batch,
            tokens=row.length,
            slots=row.length if row.slots is None else row.slots,
            chunk_tokens=PREFILL_CHUNK_TOKENS,
            cache_rows=row.batch,
        )
        for row in rows
    ]
    table = fit_table(
        [
            (prefill.working_bytes(shape, row.tensor),)
            for shape, row in zip(shapes, rows, strict=True)
        ],
        [row.workspace_bytes for row in rows],
        _LINE,
        is_upper=True,
    )
    if not is_cpu:
        return table
    # On CPUs the computed bytes are exactly XLA's. What it saves at the shapes that happen
    # to be measured it may need at others.
    multiple, constant = table.coefficients
    return replace(table, coefficients=np.array([max(1.0, multiple), constant]))
