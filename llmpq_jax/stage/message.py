"""Messages that stages exchange, and events that record their work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np

from llmpq_jax.stage.compiled import OutputKind, Phase
from llmpq_jax.stage.sampling import SamplingRows


class NotFinite(NamedTuple):
    """A place where values are NaN or infinite.

    Attributes:
        stage: Number of the stage.
        part: Index of the part of the stage: 0 for its embedding or what it receives,
            then its layers, then its head.
    """

    stage: int
    part: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Message:
    """One micro-batch in the pipeline.

    Attributes:
        phase: Phase that the stages run.
        micro_batch: Number of the micro-batch within the phase; in decode the number of
            its group.
        step: Index of the prompts' chunk in prefill; n for the n-th decode step.
        groups: Numbers of the decode groups that its rows belong to.
        first_row: First of its rows in the group, if they are part of one group.
        payload: Tokens before the first stage and after the last, hidden states
            between stages.
        slot_B: Lengths of the prompts in prefill, positions of the tokens in decode.
        sampling: Sampling parameters of each row.
        output: Kind of output that the last stage returns.
        head_inputs: Integers [B, N] that the head needs, which in prefill then runs apart
            from the layers (`StageProgram.prefill`, `StageProgram.decode`); None if it
            needs none.
        num_chunks: Number of chunks that the prompts are cut into.
        chunk_tokens: Tokens of each prompt in a chunk, if there are several chunks.
        first_position: Position of the first of them, whose earlier tokens are in the
            caches; None where nothing before it is attended to.
        num_steps: Decode steps that a stage runs at a time; more than one only if the
            stage is the whole model.
        tokens: Tokens of those steps, [steps, B], the first `num_steps` of them valid;
            None before and where a stage runs one step at a time.
        steps_left: Decode steps that follow this one without the scheduler: where
            stages are processes, the last one sends its tokens straight to the first.
        epoch: Number of the pipeline's epoch; each recovery starts a new one, and
            messages of older ones are dropped.
        checks_finite: Whether stages check the results of this prefill of one row.
        not_finite: First place where that found one that is not finite.
    """

    phase: Phase
    micro_batch: int
    step: int
    groups: tuple[int, ...]
    first_row: int = 0
    payload: jax.Array | np.ndarray
    slot_B: np.ndarray
    sampling: SamplingRows
    output: OutputKind = "tokens"
    head_inputs: np.ndarray | None = None
    num_chunks: int = 1
    chunk_tokens: int = 0
    first_position: int | None = None
    num_steps: int = 1
    tokens: jax.Array | np.ndarray | None = None
    steps_left: int = 0
    epoch: int = 0
    checks_finite: bool = False
    not_finite: NotFinite | None = None

    @property
    def is_last_chunk(self) -> bool:
        """Whether no chunk of the same prompts follows; true of decode steps."""
        return self.step + 1 >= self.num_chunks

    def ends_prompt(self, index: int) -> bool:
        """Whether the prompt of one of its rows ends in this chunk."""
        if self.num_chunks == 1:
            return True
        last = int(self.slot_B[index]) - 1 - (self.first_position or 0)
        return 0 <= last < self.chunk_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEvent:
    """One stage's work on one message.

    Attributes:
        stage: Number of the stage.
        phase: Phase of the message.
        micro_batch: Micro-batch of the message.
        step: Step of the message.
        num_steps: Decode steps of the message.
        received_s: Time when the stage received it, on the clock `time.perf_counter`.
        started_s: Time when the stage started to work on it.
        ended_s: Time when its result was ready.
        rows: Rows of the micro-batch; 0 in older records, which do not have them.
        tokens: In prefill the tokens of each row, padding included; in decode the tokens
            in a row's cache, the new one included, mean over rows and steps.
        slots: Slots of a row's cache.
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

    def shifted(self, seconds: float) -> StageEvent:
        """Returns the event with its times on a clock that is ahead by some seconds."""
        return replace(
            self,
            received_s=self.received_s + seconds,
            started_s=self.started_s + seconds,
            ended_s=self.ended_s + seconds,
        )
