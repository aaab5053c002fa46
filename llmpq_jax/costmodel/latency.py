"""Seconds of layers, embedding and head on each kind of device, from measurements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean

import numpy as np
import numpy.typing as npt

from llmpq_jax.costmodel.interpolation import (
    InterpolatedLatency,
    fit_interpolated_latency,
)
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.measurements import (
    PHASES,
    LayerTime,
    Measurements,
    Phase,
    VocabularyLayer,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import Bits, HeadBits
from llmpq_jax.schema.workload import Workload

# Exponents over (rows, tokens). Prefill: work per row, products with weights, attention,
# and a constant for reading the weights. Decode: products with weights, reading the cache,
# and the constant. The constant is last, see `monotone_table`.
LAYER_FEATURES: dict[Phase, list[tuple[int, int]]] = {
    "prefill": [(1, 0), (1, 1), (1, 2), (0, 0)],
    "decode": [(1, 0), (1, 1), (0, 0)],
}
VOCABULARY_LAYER_FEATURES = [(1,), (0,)]


LayerKey = tuple[str, Phase, Bits, int]
VocabularyLayerKey = tuple[str, VocabularyLayer, HeadBits]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyModel:
    """Seconds of a model's parts on each kind of device.

    A kind does not support what was not measured on it: asking for its seconds raises
    MeasurementError.

    Attributes:
        layers: Seconds over (rows, tokens), by kind, phase, bits and tensor width.
        vocabulary_layers: Seconds over rows, by kind, part and bits.
        dispatch_overheads: Seconds of dispatching one call of a stage, by kind.
        varlen_kinds: Kinds whose decode kernels read only the filled part of a cache, so
            that steps take longer as the context grows. Other kinds read all of it.
        corrections: Factors that multiply all seconds of a kind in a phase, found by
            recorded runs; 1 where absent.
    """

    layers: dict[LayerKey, InterpolatedLatency]
    vocabulary_layers: dict[VocabularyLayerKey, InterpolatedLatency]
    dispatch_overheads: dict[str, float] = field(default_factory=dict)
    varlen_kinds: frozenset[str] = frozenset()
    corrections: dict[tuple[str, Phase], float] = field(default_factory=dict)

    def supports_layer(self, kind: str, bits: Bits, *, tensor: int = 1) -> bool:
        """Whether layers at these bits were measured on a kind, in both phases."""
        return all((kind, phase, bits, tensor) in self.layers for phase in PHASES)

    def supports_vocabulary_layer(
        self, kind: str, part: VocabularyLayer, bits: HeadBits = 16
    ) -> bool:
        """Whether the embedding or the head at these bits was measured on a kind."""
        return (kind, part, bits) in self.vocabulary_layers

    def prefill_s(
        self, kind: str, bits: Bits, *, rows: int, workload: Workload, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer on one prefill micro-batch.

        Prompts are padded to their bucket, and the padding is computed too.
        """
        length = bucket_length(workload.prompt_length)
        return self.layer_s(
            kind, "prefill", bits, rows=rows, lengths=length, tensor=tensor
        )

    def decode_s(
        self, kind: str, bits: Bits, *, rows: int, workload: Workload, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer on one decode step, mean over the steps.

        The context grows by one token per step. Kinds that read the whole cache take as
        long in every step, since a cache has the length of the longest context's bucket
        from the start. With one new token there is no decode step, and the result is 0.
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
        """Returns the seconds of a layer on a number of rows, mean over the lengths."""
        key = (kind, phase, bits, tensor)
        if key not in self.layers:
            msg = f"measurements: no {phase} of a layer at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        seconds = self.layers[key](rows, lengths)
        return self.correction(kind, phase) * float(seconds.mean())

    def attention_s(
        self, kind: str, bits: Bits, *, queries: int, keys: int, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer's attention in a prefill of one row.

        They are the law's term of tokens squared, for unequal numbers of both.
        """
        law = self.layers[kind, "prefill", bits, tensor]
        of_squares = LAYER_FEATURES["prefill"].index((1, 2))
        seconds = law.coefficients[of_squares] * queries * keys
        return self.correction(kind, "prefill") * float(seconds)

    def vocabulary_layer_s(
        self,
        kind: str,
        phase: Phase,
        part: VocabularyLayer,
        bits: HeadBits = 16,
        *,
        rows: int,
    ) -> float:
        """Returns the seconds of the embedding or the head on a number of rows."""
        if (kind, part, bits) not in self.vocabulary_layers:
            msg = f"measurements: no {part} at {bits} bits on {kind!r}: expected [[vocabulary_layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        seconds = self.vocabulary_layers[kind, part, bits](rows)
        return self.correction(kind, phase) * float(seconds)

    def dispatch_s(self, kind: str, phase: Phase) -> float:
        """Returns the dispatch overhead of one stage call, in seconds.

        It is 0 for a kind on which it was not measured: there the seconds of layers
        include their share of it.
        """
        return self.correction(kind, phase) * self.dispatch_overheads.get(kind, 0.0)

    def correction(self, kind: str, phase: Phase) -> float:
        """Returns the factor that recorded runs found for a kind in a phase."""
        return self.corrections.get((kind, phase), 1.0)


def layers_by_key(rows: Iterable[LayerTime]) -> dict[LayerKey, list[LayerTime]]:
    """Groups measured layers by what they are fitted for."""
    groups: dict[LayerKey, list[LayerTime]] = defaultdict(list)
    for row in rows:
        groups[row.kind, row.phase, row.bits, row.tensor].append(row)
    return groups


def vocabulary_layers_by_key(
    measurements: Measurements,
) -> dict[VocabularyLayerKey, list[VocabularyLayerTime]]:
    """Groups measured embeddings and heads by what they are fitted for."""
    groups: dict[VocabularyLayerKey, list[VocabularyLayerTime]] = defaultdict(list)
    for row in measurements.vocabulary_layers:
        groups[row.kind, row.part, row.bits].append(row)
    return groups


def fit_layer(phase: Phase, rows: Sequence[LayerTime]) -> InterpolatedLatency:
    """Fits the seconds of a layer in one phase, over (rows, tokens)."""
    return fit_interpolated_latency(
        [(row.batch, row.length) for row in rows],
        [row.seconds for row in rows],
        LAYER_FEATURES[phase],
        noise=_noise(rows),
    )


# A sweep or an explanation solves dozens of problems with the same measurements.
@lru_cache(maxsize=16)
def fit_latency(measurements: Measurements) -> LatencyModel:
    """Fits a model to all rows that are not held out."""
    fitted = [row for row in measurements.layers if not row.held_out]
    return LatencyModel(
        layers={
            key: fit_layer(key[1], rows) for key, rows in layers_by_key(fitted).items()
        },
        vocabulary_layers={
            key: fit_interpolated_latency(
                [(row.rows,) for row in rows],
                [row.seconds for row in rows],
                VOCABULARY_LAYER_FEATURES,
                noise=_noise(rows),
            )
            for key, rows in vocabulary_layers_by_key(measurements).items()
        },
        dispatch_overheads={row.kind: row.seconds for row in measurements.dispatch},
        varlen_kinds=frozenset(
            row.kind
            for row in measurements.kinds
            if not row.reads_whole_cache(measurements.activations)
        ),
        corrections=correction_factors(measurements),
    )


def correction_factors(measurements: Measurements) -> dict[tuple[str, Phase], float]:
    """Returns measured over predicted seconds of recorded runs, by device kind and phase.

    All runs count together, weighted by their seconds: Σ measured / Σ predicted.
    """
    predicted_s: dict[tuple[str, Phase], float] = defaultdict(float)
    measured_s: dict[tuple[str, Phase], float] = defaultdict(float)
    for row in measurements.observed:
        predicted_s[row.kind, row.phase] += row.predicted_s
        measured_s[row.kind, row.phase] += row.measured_s
    return {key: measured_s[key] / predicted_s[key] for key in predicted_s}


def _noise(rows: Sequence[LayerTime | VocabularyLayerTime]) -> float:
    """Returns the relative standard error of the measured medians.

    It is 1.25 σ / √n for the median of n normal samples, and the spread (half the
    distance between the quartiles) is 0.67 σ: with 14 repeats, half the spread.
    """
    return fmean(row.spread for row in rows) / 2
