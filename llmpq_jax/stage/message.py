"""What travels from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from llmpq_jax.stage.compiled import Phase, Wanted
from llmpq_jax.stage.sampling import SamplingRows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Message:
    """One micro-batch on its way through the pipeline.

    Attributes:
        phase: What is to be done with it.
        micro_batch: Its number within the phase.
        step: Number of the prompts' chunk in prefill, from 0; n for the n-th decode
            step.
        groups: Cache groups its rows belong to.
        first_row: Where its rows begin, if they are part of one group.
        payload: Tokens before the first stage and after the last, hidden states
            between stages.
        slot_B: Lengths of the prompts in prefill, positions of the tokens in decode.
        sampling: How its rows are sampled.
        wanted: What the last stage returns.
        num_chunks: How many chunks the prompts come in.
        chunk_tokens: Tokens of each prompt in a chunk, where there are several.
        num_steps: Decode steps to be taken in one go; more than one only where one
            stage is the whole pipeline.
        tokens: What came of those steps, [steps, B], the first `num_steps` of them
            valid; absent otherwise.
        steps_left: Decode steps that follow this one without the driver: where stages
            are processes, the last one sends its tokens straight to the first.
        epoch: Of the pipeline; after a loss a new one begins, and nothing of an older
            one is believed.
    """

    phase: Phase
    micro_batch: int
    step: int
    groups: tuple[int, ...]
    first_row: int
    payload: jax.Array | np.ndarray
    slot_B: np.ndarray
    sampling: SamplingRows
    wanted: Wanted = "tokens"
    num_chunks: int = 1
    chunk_tokens: int = 0
    num_steps: int = 1
    tokens: jax.Array | np.ndarray | None = None
    steps_left: int = 0
    epoch: int = 0

    @property
    def first_position(self) -> int | None:
        """Where a chunk of prompts begins; None where they come whole."""
        return None if self.num_chunks == 1 else self.step * self.chunk_tokens

    def ends_prompt(self, index: int) -> bool:
        """Whether the prompt of one of its rows ends in this chunk."""
        if self.num_chunks == 1:
            return True
        return (int(self.slot_B[index]) - 1) // self.chunk_tokens == self.step


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEvent:
    """One micro-batch worked on by one stage.

    Attributes:
        stage: Number of the stage.
        phase: Of the message.
        micro_batch: Of the message.
        step: Of the message.
        num_steps: Of the message.
        received_s: When it was there, on the clock `time.perf_counter`.
        started_s: When its turn came.
        ended_s: When its result was ready.
        rows: Of the micro-batch; 0 in records that do not tell.
        tokens: In prefill those of each row, padding included; in decode those that a
            row's cache holds, the new one among them, mean over rows and steps.
        slots: Of a row's cache.
    """

    stage: int
    phase: Phase
    micro_batch: int
    step: int
    num_steps: int = 1
    received_s: float
    started_s: float
    ended_s: float
    rows: int = 0
    tokens: float = 0.0
    slots: int = 0
