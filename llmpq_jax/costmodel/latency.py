"""Seconds of layers, embedding and head on each kind of device, from measurements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmpq_jax.costmodel.corrections import correction_factors
from llmpq_jax.costmodel.interpolation import (
    InterpolatedLatency,
    fit_interpolated_latency,
)
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.measurements import (
    LayerTime,
    Measurements,
    Phase,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import Bits, HeadBits
from llmpq_jax.schema.workload import Workload

# Over (rows, tokens). Prefill: weights are read once, matrices cost rows times tokens,
# attention their square. Decode: weights once, matrices by row, the cache by row and
# cached token. The constant stands last, see `tables`.
LAYER_FEATURES: dict[Phase, list[tuple[int, int]]] = {
    "prefill": [(1, 0), (1, 1), (1, 2), (0, 0)],
    "decode": [(1, 0), (1, 1), (0, 0)],
}
VOCABULARY_LAYER_FEATURES = [(1,), (0,)]

VocabularyLayer = Literal["embedding", "head"]
LayerKey = tuple[str, Phase, Bits, int]
VocabularyLayerKey = tuple[str, VocabularyLayer, HeadBits]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyModel:
    """Seconds by kind of device.

    What was not measured is not supported there: questions about it raise, they are
    never answered with 0.

    Attributes:
        layers: By kind, phase, bits and tensor width, over (rows, tokens).
        vocabulary_layers: By kind, part and bits, over rows.
        dispatch_overheads: By kind, seconds of a stage by itself.
        varlen_kinds: Kinds whose decode steps take longer as the context grows; others read
            all slots of a cache in each, filled or not.
        corrections: By kind and phase, how many times as long as foretold runs took; 1 where
            none was folded in. All seconds of a kind in a phase are multiplied by it.
    """

    layers: dict[LayerKey, InterpolatedLatency]
    vocabulary_layers: dict[VocabularyLayerKey, InterpolatedLatency]
    dispatch_overheads: dict[str, float] = field(default_factory=dict)
    varlen_kinds: frozenset[str] = frozenset()
    corrections: dict[tuple[str, Phase], float] = field(default_factory=dict)

    def supports_layer(self, kind: str, bits: Bits, *, tensor: int = 1) -> bool:
        """Whether a layer at these bits was measured there, in both phases."""
        phases: tuple[Phase, ...] = ("prefill", "decode")
        return all((kind, phase, bits, tensor) in self.layers for phase in phases)

    def supports_vocabulary_layer(
        self, kind: str, part: VocabularyLayer, bits: HeadBits = 16
    ) -> bool:
        """Whether this end of the model was measured there."""
        return (kind, part, bits) in self.vocabulary_layers

    def prefill_s(
        self, kind: str, bits: Bits, *, rows: int, workload: Workload, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer on one prefill micro-batch.

        Prompts are padded to their bucket, and all padding is computed.
        """
        length = bucket_length(workload.prompt_length)
        return self.layer_s(
            kind, "prefill", bits, rows=rows, lengths=length, tensor=tensor
        )

    def decode_s(
        self, kind: str, bits: Bits, *, rows: int, workload: Workload, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer on one decode step, mean over the steps.

        The context grows by a token a step, and its seconds are summed step by step.
        Where kernels read a whole cache all steps take as long: it has the slots of the
        longest context's bucket from the first step on. With n = 1 there is no step,
        and the answer is 0.
        """
        num_steps = workload.expected(workload.new_tokens) - 1
        if num_steps == 0:
            return 0.0
        lengths = (
            workload.prompt_length + np.arange(1, num_steps + 1)
            if kind in self.varlen_kinds
            else bucket_length(workload.context_length)
        )
        return self.layer_s(
            kind, "decode", bits, rows=rows, lengths=lengths, tensor=tensor
        )

    def layer_s(
        self,
        kind: str,
        phase: Phase,
        bits: Bits,
        *,
        rows: int,
        lengths: npt.ArrayLike,
        tensor: int = 1,
    ) -> float:
        """Returns the seconds of a layer on so many rows, mean over some lengths."""
        table = self._layer(kind, phase, bits, tensor)
        return self.correction(kind, phase) * float(table(rows, lengths).mean())

    def vocabulary_layer_s(
        self,
        kind: str,
        phase: Phase,
        part: VocabularyLayer,
        bits: HeadBits = 16,
        *,
        rows: int,
    ) -> float:
        """Returns the seconds of the embedding of, or the head on, so many rows."""
        if (kind, part, bits) not in self.vocabulary_layers:
            msg = f"measurements: no {part} at {bits} bits on {kind!r}: expected [[vocabulary_layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.correction(kind, phase) * float(
            self.vocabulary_layers[kind, part, bits](rows)
        )

    def dispatch_s(self, kind: str, phase: Phase) -> float:
        """Returns what each visit of a stage costs beside what the stage holds.

        What was not measured counts 0: its layers carry their share of a call already.
        """
        return self.correction(kind, phase) * self.dispatch_overheads.get(kind, 0.0)

    def correction(self, kind: str, phase: Phase) -> float:
        """Returns what runs that were folded in say of the table of a kind."""
        return self.corrections.get((kind, phase), 1.0)

    def _layer(
        self, kind: str, phase: Phase, bits: Bits, tensor: int
    ) -> InterpolatedLatency:
        if (kind, phase, bits, tensor) not in self.layers:
            msg = f"measurements: no {phase} of a layer at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.layers[kind, phase, bits, tensor]


def fit_layer(phase: Phase, rows: Sequence[LayerTime]) -> InterpolatedLatency:
    """Fits the seconds of one layer in one phase, over (rows, tokens)."""
    return fit_interpolated_latency(
        [(row.batch, row.length) for row in rows],
        [row.seconds for row in rows],
        LAYER_FEATURES[phase],
        noise=_noise(rows),
    )


def fit_vocabulary_layer(rows: Sequence[VocabularyLayerTime]) -> InterpolatedLatency:
    """Fits the seconds of one end of the model, over rows."""
    return fit_interpolated_latency(
        [(row.rows,) for row in rows],
        [row.seconds for row in rows],
        VOCABULARY_LAYER_FEATURES,
        noise=_noise(rows),
    )


def fit_latency(measurements: Measurements) -> LatencyModel:
    """Fits all that the measurements allow, without what they hold out."""
    layers: dict[LayerKey, list[LayerTime]] = defaultdict(list)
    for row in measurements.layers:
        if not row.held_out:
            layers[row.kind, row.phase, row.bits, row.tensor].append(row)
    ends: dict[VocabularyLayerKey, list[VocabularyLayerTime]] = defaultdict(list)
    for end in measurements.vocabulary_layers:
        ends[end.kind, end.part, end.bits].append(end)
    return LatencyModel(
        layers={key: fit_layer(key[1], rows) for key, rows in layers.items()},
        vocabulary_layers={
            key: fit_vocabulary_layer(rows) for key, rows in ends.items()
        },
        dispatch_overheads={row.kind: row.seconds for row in measurements.dispatch},
        varlen_kinds=frozenset(
            row.kind
            for row in measurements.kinds
            if not row.reads_whole_cache(measurements.activations)
        ),
        corrections=correction_factors(measurements),
    )


def _noise(rows: Sequence[LayerTime | VocabularyLayerTime]) -> float:
    """Returns how far medians are from what they are medians of, a share of it.

    The standard error of the median of n normal samples is 1.25 σ / √n, and half the
    distance between their quartiles is 0.67 σ: of 14 repeats half the spread is left.
    """
    return fmean(row.spread for row in rows) / 2
