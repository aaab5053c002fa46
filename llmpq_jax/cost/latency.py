"""Seconds of layers, embedding and head on each kind of device, from measurements."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from llmpq_jax.cost.tables import MonotoneTable, fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.spec.buckets import bucket_length
from llmpq_jax.spec.measurements import Measurements, Phase
from llmpq_jax.spec.precision import Bits, HeadBits
from llmpq_jax.spec.workload import Workload

# Over (rows, tokens). Prefill: weights are read once, matrices cost rows times tokens,
# attention their square. Decode: weights once, matrices by row, the cache by row and
# cached token. The constant stands last, see `tables`.
LAYER_FEATURES: dict[Phase, list[tuple[int, int]]] = {
    "prefill": [(1, 0), (1, 1), (1, 2), (0, 0)],
    "decode": [(1, 0), (1, 1), (0, 0)],
}
END_FEATURES = [(1,), (0,)]

Part = Literal["embedding", "head"]
LayerKey = tuple[str, Phase, Bits, int]
EndKey = tuple[str, Part, HeadBits]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyModel:
    """Seconds by kind of device.

    What was not measured is not supported there: questions about it raise, they are
    never answered with 0.

    Attributes:
        layers: By kind, phase, bits and tensor width, over (rows, tokens).
        ends: By kind, part and bits, over rows.
        calls: By kind, seconds of a stage by itself.
    """

    layers: dict[LayerKey, MonotoneTable]
    ends: dict[EndKey, MonotoneTable]
    calls: dict[str, float] = field(default_factory=dict)

    def supports_layer(self, kind: str, bits: Bits, *, tensor: int = 1) -> bool:
        """Whether a layer at these bits was measured there, in both phases."""
        phases: tuple[Phase, ...] = ("prefill", "decode")
        return all((kind, phase, bits, tensor) in self.layers for phase in phases)

    def supports_end(self, kind: str, part: Part, bits: HeadBits = 16) -> bool:
        """Whether this end of the model was measured there."""
        return (kind, part, bits) in self.ends

    def prefill_s(
        self, kind: str, bits: Bits, *, rows: int, workload: Workload, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer on one prefill micro-batch.

        Prompts are padded to their bucket, and all padding is computed.
        """
        table = self._layer(kind, "prefill", bits, tensor)
        return float(table(rows, bucket_length(workload.prompt_length)))

    def decode_s(
        self, kind: str, bits: Bits, *, rows: int, workload: Workload, tensor: int = 1
    ) -> float:
        """Returns the seconds of a layer on one decode step, mean over the steps.

        All steps take as long: a cache has the slots of the longest context's bucket
        from the first step on, and attention masks those that are still empty but
        reads them all. With n = 1 there is no step, and the answer is 0.
        """
        if workload.new_tokens == 1:
            return 0.0
        table = self._layer(kind, "decode", bits, tensor)
        return float(table(rows, bucket_length(workload.context_length)))

    def end_s(self, kind: str, part: Part, bits: HeadBits = 16, *, rows: int) -> float:
        """Returns the seconds of the embedding of, or the head on, so many rows."""
        if (kind, part, bits) not in self.ends:
            msg = f"measurements: no {part} at {bits} bits on {kind!r}: expected [[end]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return float(self.ends[kind, part, bits](rows))

    def call_s(self, kind: str) -> float:
        """Returns what each visit of a stage costs beside what the stage holds.

        What was not measured counts 0: its layers carry their share of a call already.
        """
        return self.calls.get(kind, 0.0)

    def _layer(self, kind: str, phase: Phase, bits: Bits, tensor: int) -> MonotoneTable:
        if (kind, phase, bits, tensor) not in self.layers:
            msg = f"measurements: no {phase} of a layer at {bits} bits, tensor width {tensor}, on {kind!r}: expected [[layer]] rows of it; measure with `llmpq-jax profile`"
            raise MeasurementError(msg)
        return self.layers[kind, phase, bits, tensor]


def fit_latency(measurements: Measurements) -> LatencyModel:
    """Fits every table of seconds that the measurements allow."""
    layers: dict[LayerKey, list[tuple[int, int, float]]] = defaultdict(list)
    for row in measurements.layers:
        key = (row.kind, row.phase, row.bits, row.tensor)
        layers[key].append((row.batch, row.length, row.seconds))
    ends: dict[EndKey, list[tuple[int, float]]] = defaultdict(list)
    for row in measurements.ends:
        ends[row.kind, row.part, row.bits].append((row.rows, row.seconds))
    return LatencyModel(
        layers={
            key: fit_table(
                [row[:2] for row in rows],
                [row[2] for row in rows],
                LAYER_FEATURES[key[1]],
            )
            for key, rows in layers.items()
        },
        ends={
            key: fit_table(
                [row[:1] for row in rows], [row[1] for row in rows], END_FEATURES
            )
            for key, rows in ends.items()
        },
        calls={row.kind: row.seconds for row in measurements.calls},
    )
