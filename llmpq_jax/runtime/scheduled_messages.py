"""Builds the messages of micro-batches: prompts, padded and in chunks, and decode steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.decode_group import BatchSlot, DecodeGroup, output_for
from llmpq_jax.stage.compiled import OutputKind
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import SamplingRows


def prefill_messages(
    groups: Sequence[DecodeGroup],
    slots: Sequence[BatchSlot],
    shape: BatchShape,
    *,
    micro_batch: int,
    num_tokens: int,
) -> list[Message]:
    """Returns the chunks of one prefill micro-batch, and counts it in its groups.

    A slot without an active sequence becomes a row of padding; each row has
    `num_tokens` tokens, padding included, which is the length of a bucket.
    """
    token_BT = np.zeros((len(slots), num_tokens), np.int32)
    length_B = np.ones(len(slots), np.int32)
    for index, (number, row) in enumerate(slots):
        group = groups[number]
        if (sequence := group.active_in(row)) is not None:
            history = sequence.history
            token_BT[index, : len(history)] = history
            length_B[index] = group.length_B[row] = len(history)
    group_numbers = tuple(dict.fromkeys(number for number, _ in slots))
    for number in group_numbers:
        groups[number].num_prefills += 1
    sequences = [groups[number].sequences[row] for number, row in slots]
    output = output_for(sequence for sequence in sequences if sequence is not None)
    sampling = _sampling_of(groups, slots)
    num_chunks = shape.num_chunks(num_tokens)
    return [
        Message(
            phase="prefill",
            micro_batch=micro_batch,
            step=step,
            groups=group_numbers,
            first_row=slots[0].row,
            payload=chunk,
            slot_B=length_B,
            sampling=sampling,
            output=output,
            num_chunks=num_chunks,
            chunk_tokens=num_tokens // num_chunks,
        )
        for step, chunk in enumerate(np.split(token_BT, num_chunks, axis=1))
    ]


def decode_message(
    number: int,
    group: DecodeGroup,
    previous: Message,
    *,
    num_slots: int,
    num_steps: int,
    output: OutputKind,
) -> Message:
    """Returns a group's decode steps after a result, and counts them.

    They are `num_steps` steps without a return to the scheduler.
    """
    # Tokens of a decode step return to the first stage without a copy to the host.
    stays_on_device = previous.phase == "decode" and previous.output == "tokens"
    message = Message(
        phase="decode",
        micro_batch=number,
        step=group.num_steps + 1,
        groups=(number,),
        payload=previous.payload if stays_on_device else group.token_B.copy(),
        # The last token of a row comes right behind what the caches hold of it.
        slot_B=np.minimum(group.length_B, num_slots - 1),
        sampling=group.sampling,
        output=output,
        num_steps=num_steps,
    )
    group.num_steps += num_steps
    return message


def _sampling_of(
    groups: Sequence[DecodeGroup], slots: Sequence[BatchSlot]
) -> SamplingRows:
    arrays = (
        np.array([groups[number].sampling[field][row] for number, row in slots])
        for field in range(len(SamplingRows._fields))
    )
    return SamplingRows(*arrays)
