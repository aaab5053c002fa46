"""Builds the messages of micro-batches: prompts, padded and in chunks, and decode steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.decode_group import BatchSlot, DecodeGroup
from llmpq_jax.runtime.head_inputs import HeadInputs
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
    head_inputs: HeadInputs,
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
    active = {
        index: sequence
        for index, (number, row) in enumerate(slots)
        if (sequence := groups[number].active_in(row)) is not None
    }
    head = head_inputs.of_rows(active, len(slots))
    sampling = _sampling_of(groups, slots)
    num_chunks = shape.num_chunks(num_tokens)
    chunk_tokens = num_tokens // num_chunks
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
            output=head.output,
            head_inputs=head.inputs,
            num_chunks=num_chunks,
            chunk_tokens=chunk_tokens,
            first_position=None if num_chunks == 1 else step * chunk_tokens,
        )
        for step, chunk in enumerate(np.split(token_BT, num_chunks, axis=1))
    ]


def chunk_message(
    group: DecodeGroup,
    slot: BatchSlot,
    token_ids: Sequence[int],
    *,
    micro_batch: int,
    first_position: int,
    chunk_tokens: int,
    step: int,
    num_chunks: int,
    output: OutputKind,
    head_inputs: np.ndarray | None,
) -> Message:
    """Returns one chunk of one row's prompt, padded to `chunk_tokens`.

    Its tokens begin at `first_position`; the caches hold what comes before. The length of
    the prompt is the group's `length_B`.
    """
    token_1T = np.zeros((1, chunk_tokens), np.int32)
    token_1T[0, : len(token_ids)] = token_ids
    return Message(
        phase="prefill",
        micro_batch=micro_batch,
        step=step,
        groups=(slot.group,),
        first_row=slot.row,
        payload=token_1T,
        slot_B=group.length_B[slot.row : slot.row + 1].copy(),
        sampling=group.sampling_of(slot.row),
        output=output,
        head_inputs=head_inputs,
        num_chunks=num_chunks,
        chunk_tokens=chunk_tokens,
        # The first chunk attends to itself alone.
        first_position=first_position or None,
    )


def decode_message(
    number: int,
    group: DecodeGroup,
    previous: Message | None,
    *,
    num_slots: int,
    num_steps: int,
    output: OutputKind,
    head_inputs: np.ndarray | None = None,
) -> Message:
    """Returns a group's decode steps after a result of its own, if any, and counts them.

    They are `num_steps` steps without a return to the scheduler.
    """
    payload = group.token_B.copy()
    # Tokens of a decode step return to the first stage without a copy to the host.
    if (
        previous is not None
        and previous.phase == "decode"
        and previous.output in ("tokens", "adjusted")
    ):
        payload = previous.payload
    message = Message(
        phase="decode",
        micro_batch=number,
        step=group.num_steps + 1,
        groups=(number,),
        payload=payload,
        # The last token of a row comes right behind what the caches hold of it.
        slot_B=np.minimum(group.length_B, num_slots - 1),
        sampling=group.sampling,
        output=output,
        head_inputs=head_inputs,
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
