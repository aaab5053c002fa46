"""Seconds of a micro-batch on one stage, at the sizes it was run with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.costmodel.latency import LatencyModel
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.precision import Bits, HeadBits


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchShape:
    """How large a micro-batch is.

    Attributes:
        phase: Prefill of whole prompts, or one step of decode.
        rows: Of it, padding included.
        tokens: In prefill those of each row, padding included; in decode those its cache
            holds with the new one, mean over the rows.
        slots: Of a row's cache.
        num_steps: Decode steps taken in one call, by a stage that is the whole model.
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
    size: MicroBatchShape,
    *,
    has_embedding: bool,
    head_bits: HeadBits | None,
) -> float:
    """Foretells a micro-batch once through a stage on one device.

    Args:
        latency: Fitted.
        kind: Of the device.
        bits: Of the stage's layers.
        size: Of the micro-batch. Of several steps in a call one is foretold, with its
            share of the call.
        has_embedding: The stage embeds.
        head_bits: Of the head, where the stage has it.

    Raises:
        MeasurementError: A layer or an end was not measured there.
    """
    phase, rows = size.phase, size.rows
    is_step = phase == "decode"
    # As in `LatencyModel.decode_s`: some kernels end at a row's length, others do not.
    length = size.slots if is_step and kind not in latency.varlen_kinds else size.tokens
    seconds = latency.dispatch_s(kind, phase) / size.num_steps
    for layer_bits, count in Counter(bits).items():
        seconds += count * latency.layer_s(
            kind, phase, layer_bits, rows=rows, lengths=length
        )
    if has_embedding:
        looked_up = rows if is_step else round(rows * size.tokens)
        seconds += latency.vocabulary_layer_s(kind, phase, "embedding", rows=looked_up)
    if head_bits is not None:
        seconds += latency.vocabulary_layer_s(kind, phase, "head", head_bits, rows=rows)
    return seconds
