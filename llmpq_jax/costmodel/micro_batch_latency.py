"""Seconds of one micro-batch on one stage, at the sizes of a recorded run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.costmodel.latency import LatencyModel
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.precision import Bits, HeadBits


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchShape:
    """Size of a micro-batch in one phase.

    Attributes:
        phase: "prefill" of whole prompts, or "decode" of one token per row.
        rows: Number of rows, padding included.
        tokens: In prefill, tokens of each row, padding included; in decode, cached tokens
            with the new one, mean over the rows.
        slots: Length of a row's cache, in tokens.
        num_steps: Decode steps per call; above 1 only on a stage that holds the whole
            model.
    """

    phase: Phase
    rows: int
    tokens: float
    slots: int
    num_steps: int = 1


def micro_batch_s(
    latency: LatencyModel,
    kind: str,
    bits: Sequence[Bits],
    shape: MicroBatchShape,
    *,
    has_embedding: bool,
    head_bits: HeadBits | None,
    tensor: int = 1,
) -> float:
    """Predicts the seconds of one micro-batch on a stage of one device, or of a mesh.

    What the devices of a mesh send each other of the logits is not counted.

    With several steps per call the result is for one step, with its share of the dispatch
    overhead. `head_bits` is None if the stage does not hold the head.

    Raises:
        MeasurementError: If a layer, the embedding or the head was not measured on the
            kind.
    """
    phase, rows = shape.phase, shape.rows
    is_decode = phase == "decode"
    # As in `LatencyModel.decode_s`.
    reads_whole_cache = is_decode and kind not in latency.varlen_kinds
    length = shape.slots if reads_whole_cache else shape.tokens
    seconds = latency.dispatch_s(kind, phase) / shape.num_steps
    for layer_bits, count in Counter(bits).items():
        seconds += count * latency.layer_s(
            kind, phase, layer_bits, rows=rows, lengths=length, tensor=tensor
        )
    if has_embedding:
        embedded = rows if is_decode else round(rows * shape.tokens)
        seconds += latency.vocabulary_layer_s(kind, phase, "embedding", rows=embedded)
    if head_bits is not None:
        seconds += latency.vocabulary_layer_s(kind, phase, "head", head_bits, rows=rows)
    return seconds
