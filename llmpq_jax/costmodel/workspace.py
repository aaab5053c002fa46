"""Temporary memory of compiled programs, never predicted below what was measured.

For a prefill it follows from the sizes of its blocks (`costmodel.prefill_memory`): measured
bytes are fitted as a multiple of the computed bytes plus a constant, raised until no
measurement is above the line. For everything else it is a table over the measured sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil

import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.costmodel.latency import (
    LAYER_FEATURES,
    VOCABULARY_LAYER_FEATURES,
    LayerKey,
    VocabularyLayerKey,
    layers_by_key,
    vocabulary_layers_by_key,
)
from llmpq_jax.costmodel.monotone_table import MonotoneTable, fit_table
from llmpq_jax.costmodel.prefill_memory import (
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
)
from llmpq_jax.schema.precision import Bits, HeadBits, KvBits, vector_bits
from llmpq_jax.schema.workload import MicroBatch, Workload

# The compiler places buffers by heuristics: some shapes take up to 9 % more.
_PREFILL_MARGIN = 1.10

# Exponents over working bytes: a multiple of them, and a constant.
_LINE = ((1.0,), (0.0,))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceModel:
    """Bytes of workspace on each kind of device.

    Attributes:
        working_bytes: Working memory of a prefill of some shape and tensor width.
        layers: Bytes by kind, phase, bits and tensor width: of prefill over working
            bytes, of decode over (rows, tokens).
        vocabulary_layers: Bytes over rows, by kind, part and bits.
    """

    working_bytes: Callable[..., int]
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
        phases: Sequence[Phase] = PHASES,
    ) -> int:
        """Returns the largest workspace of a layer's programs of some phases."""
        sizes, slots = [0.0], bucket_length(workload.context_length)
        for phase in phases:
            key = (kind, phase, bits, tensor)
            if phase == "decode" and workload.new_tokens == 1:
                continue
            if key not in self.layers:
                msg = f"measurements: no workspace of {phase} at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
                raise MeasurementError(msg)
            table = self.layers[key]
            if phase == "decode":
                sizes.append(float(table(micro_batch.decode, slots)))
                continue
            shape = prefill_shape(
                rows=micro_batch.prefill,
                tokens=bucket_length(workload.prompt_length),
                slots=slots,
                chunk_tokens=micro_batch.chunk_tokens,
                cache_rows=micro_batch.decode,
            )
            working_bytes = self.working_bytes(shape, tensor=tensor)
            sizes.append(_PREFILL_MARGIN * float(table.fitted(working_bytes)))
        return ceil(max(sizes))

    def embedding_bytes(
        self,
        kind: str,
        *,
        head_bits: HeadBits = 16,
        workload: Workload,
        micro_batch: MicroBatch,
        phases: Sequence[Phase] = PHASES,
    ) -> int:
        """Returns the workspace of embedding a micro-batch of any of some phases."""
        prompt = bucket_length(workload.prompt_length)
        rows = max_rows(micro_batch, phases, prompt=prompt)
        bits = vector_bits(head_bits)
        return self.vocabulary_layer_bytes(kind, "embedding", bits, rows=rows)

    def head_bytes(
        self,
        kind: str,
        bits: HeadBits,
        *,
        micro_batch: MicroBatch,
        phases: Sequence[Phase] = PHASES,
    ) -> int:
        """Returns the workspace of the head on a micro-batch of any of some phases."""
        rows = max_rows(micro_batch, phases)
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


def max_rows(micro_batch: MicroBatch, phases: Sequence[Phase], prompt: int = 1) -> int:
    """Returns the largest number of rows of some phases, of prefill for each token."""
    rows = {"prefill": micro_batch.prefill * prompt, "decode": micro_batch.decode}
    return max(rows[phase] for phase in phases)


# A sweep or an explanation solves dozens of problems with the same measurements.
@lru_cache(maxsize=16)
def fit_workspace(
    measurements: Measurements,
    architecture: Architecture,
    *,
    kv_bits: KvBits = 16,
) -> WorkspaceModel:
    """Fits every table of workspace that measurements with a cache of some bits allow."""
    working_bytes = partial(
        prefill_working_bytes,
        architecture,
        activations=measurements.activations,
        kv_bits=kv_bits,
    )
    cpus = {each.kind for each in measurements.kinds if each.platform == "cpu"}
    layers = [row for row in measurements.layers if row.kv_bits == kv_bits]
    return WorkspaceModel(
        working_bytes=working_bytes,
        layers={
            key: fit_table(
                [(row.batch, row.length) for row in rows],
                [row.workspace_bytes for row in rows],
                LAYER_FEATURES["decode"],
                is_upper=True,
            )
            if key[1] == "decode"
            else _fit_prefill(rows, working_bytes, is_cpu=key[0] in cpus)
            for key, rows in layers_by_key(layers).items()
        },
        vocabulary_layers={
            key: fit_table(
                [(row.rows,) for row in rows],
                [row.workspace_bytes for row in rows],
                VOCABULARY_LAYER_FEATURES,
                is_upper=True,
            )
            for key, rows in vocabulary_layers_by_key(measurements).items()
        },
    )


def _fit_prefill(
    rows: Sequence[LayerTime], working_bytes: Callable[..., int], *, is_cpu: bool
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
            (working_bytes(shape, tensor=row.tensor),)
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
