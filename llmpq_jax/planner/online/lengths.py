"""Pairs of prompt and reply lengths as the workload of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.workload import Workload

# Groups of pairs by reply, and of each of them by prompt; the strategy has a row for each.
_NUM_REPLIES = 16
_NUM_PROMPTS = 2
# Prompts of the workload, for each slot: enough that slots are refilled most of the time.
_PROMPTS_PER_SLOT = 8

Pair = tuple[int, int]


def online_workload(pairs: Sequence[Pair], *, batch: int) -> Workload:
    """Returns a batch of slots that are refilled with prompts of such lengths.

    Pairs of about equal length are one row of the workload, with their means; the longest
    prompt, reply and context are as they are.

    Args:
        pairs: Tokens of a prompt and of its reply, one pair or more.
        batch: Number of slots.
    """
    repeats = -(-_PROMPTS_PER_SLOT * batch // len(pairs))
    groups = [
        group
        for replies in _parts(sorted(pairs, key=lambda pair: pair[1]), _NUM_REPLIES)
        for group in _parts(sorted(replies), _NUM_PROMPTS)
    ]
    longest_prompt = max(prompt for prompt, _ in pairs)
    longest_reply = max(reply for _, reply in pairs)
    counts: dict[Pair, int] = {}
    for group in groups:
        num = len(group)
        mean = (
            bucket_length(round(sum(prompt for prompt, _ in group) / num)),
            max(1, round(sum(reply for _, reply in group) / num)),
        )
        counts[mean] = counts.get(mean, 0) + num * repeats
    for extreme in (
        (bucket_length(longest_prompt), 1),
        (bucket_length(1), longest_reply),
    ):
        counts[extreme] = counts.get(extreme, 0) + 1
    ordered = sorted(counts.items(), key=lambda row: (-row[0][1], -row[0][0]))
    return Workload(
        batch=batch,
        prompt_length=longest_prompt,
        new_tokens=longest_reply,
        lengths=tuple((prompt, reply, count) for (prompt, reply), count in ordered),
        longest_context=max(2, *(prompt + reply for prompt, reply in pairs)),
    )


def _parts(pairs: list[Pair], num: int) -> list[list[Pair]]:
    """Cuts a list into at most `num` parts of about equal length."""
    num = min(num, len(pairs))
    cuts = [len(pairs) * part // num for part in range(num + 1)]
    return [pairs[start:end] for start, end in pairwise(cuts)]
