"""What the last stage is asked for, and what its head is given: targets, biases, penalties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from llmpq_jax.runtime.request import MAX_BIASED_TOKENS
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.stage.bodies import OutputKind
from llmpq_jax.stage.logit_adjustments import num_words, pack_adjustments


class HeadInput(NamedTuple):
    """What is asked of the last stage for one micro-batch.

    Attributes:
        output: Kind of its output.
        inputs: Integers that the head needs, which in prefill then runs apart from the
            layers, else None.
    """

    output: OutputKind
    inputs: np.ndarray | None


class HeadInputs:
    """Makes the inputs of the head for sequences whose logits are adjusted, and others."""

    def __init__(self, *, vocabulary_size: int, num_slots: int) -> None:
        """Takes the number of tokens, and the slots of a row's cache."""
        self._vocabulary_size = vocabulary_size
        # Of all tokens in a context, and of those with a bias.
        self._num_adjusted = min(vocabulary_size, num_slots + MAX_BIASED_TOKENS)

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of integers of a row that "adjusted" is compiled for, in growing order.

        "adjusted_logprobs" is compiled for the last one.
        """
        words = num_words(self._vocabulary_size)
        return (words, words + 4 * self._num_adjusted)

    def of_rows(self, sequences: Mapping[int, Sequence], num_rows: int) -> HeadInput:
        """Returns what is asked for a micro-batch with sequences in some of its rows."""
        wants_logprobs = any(
            each.request.top_logprobs is not None for each in sequences.values()
        )
        if any(sequence.is_adjusted for sequence in sequences.values()):
            return self._adjusted_head(
                sequences, num_rows, wants_logprobs=wants_logprobs
            )
        return HeadInput("logprobs" if wants_logprobs else "tokens", None)

    def of_decode(self, sequences: Mapping[int, Sequence], num_rows: int) -> HeadInput:
        """Returns the same for a decode step of an online scheduler (`of_chunk`)."""
        asked = self.of_rows(sequences, num_rows)
        if asked.output == "logprobs":
            return self._adjusted_head(sequences, num_rows, wants_logprobs=True)
        return asked

    def of_chunk(
        self, sequence: Sequence, first: int, size: int, *, is_last: bool
    ) -> HeadInput:
        """Returns what is asked for a chunk of a prompt, `size` tokens from a first one on.

        The head runs apart, so that each size is compiled once, whatever is asked for.
        """
        request = sequence.request
        if request.wants_prompt_logprobs:
            next_ids = sequence.history[first + 1 : first + 1 + size]
            targets = np.zeros((1, size), np.int32)
            targets[0, : len(next_ids)] = next_ids
            adjusted = self._adjusted({0: sequence}, 1)
            return HeadInput("prompt_logprobs", np.concatenate([targets, adjusted], 1))
        wants_logprobs = request.top_logprobs is not None
        if is_last and (sequence.is_adjusted or wants_logprobs):
            return self._adjusted_head({0: sequence}, 1, wants_logprobs=wants_logprobs)
        return HeadInput("tokens", np.zeros((1, 0), np.int32))

    def _adjusted_head(
        self, sequences: Mapping[int, Sequence], num_rows: int, *, wants_logprobs: bool
    ) -> HeadInput:
        """Returns what is asked where logits are adjusted; log-probabilities take longer."""
        inputs = self._adjusted(sequences, num_rows, is_wide=wants_logprobs)
        return HeadInput("adjusted_logprobs" if wants_logprobs else "adjusted", inputs)

    def _adjusted(
        self,
        sequences: Mapping[int, Sequence],
        num_rows: int,
        *,
        is_wide: bool = False,
    ) -> np.ndarray:
        rows = [
            sequences[row].adjustments() if row in sequences else {}
            for row in range(num_rows)
        ]
        allowed = [
            sequences[row].allowed_tokens() if row in sequences else None
            for row in range(num_rows)
        ]
        return pack_adjustments(
            rows,
            allowed,
            vocabulary_size=self._vocabulary_size,
            num_adjusted=self._num_adjusted if is_wide or any(rows) else 0,
        )
