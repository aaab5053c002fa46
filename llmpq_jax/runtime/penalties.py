"""From a request's biases and penalties to the changes of single tokens' logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmpq_jax.runtime.request import LogitChanges
from llmpq_jax.stage.logit_adjustments import TokenAdjustment


def adjustments(
    changes: LogitChanges, prompt_ids: Sequence[int], generated_ids: Sequence[int]
) -> dict[int, TokenAdjustment]:
    """Returns how each token's logit is changed before the next token is chosen.

    Presence and frequency count generated tokens, repetition those of the prompt too, as in
    vLLM.
    """
    biases = dict(changes.bias)
    counts = Counter(generated_ids)
    tokens = set(biases) | set(counts)
    if changes.repetition_penalty != 1:
        tokens.update(prompt_ids)
    repeated = counts.keys() | set(prompt_ids)
    return {
        token: TokenAdjustment(
            bias=biases.get(token, 0.0),
            factor=changes.repetition_penalty if token in repeated else 1.0,
            penalty=changes.frequency_penalty * counts[token]
            + changes.presence_penalty * (token in counts),
        )
        for token in tokens
    }
