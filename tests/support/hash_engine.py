"""An engine without a model, which remembers what was written to each slot of its caches.

Its model is a hash of all tokens that a row's cache holds up to a position, so that any token
in a wrong row, position or step changes every later one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import StageFailedError
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL
from llmpq_jax.stage.message import Message, NotFinite
from llmpq_jax.stage.sampling import NOT_FINITE

EOS = 5
# In slots that hold no token.
UNWRITTEN = -7


# The logits of a request with a larger seed are not finite now and then.
MAX_FINITE_SEED = 100


def next_token(history: list[int], seed: int) -> int:
    token = hash((*history, seed)) % 17
    return NOT_FINITE if seed > MAX_FINITE_SEED and token < 3 else token


def served_alone(request: Request) -> list[int]:
    history, made = list(request.token_ids), []
    while len(made) < request.max_new_tokens:
        token = next_token(history, request.sampling.seed)
        if token == NOT_FINITE:
            break
        made.append(token)
        history.append(made[-1])
        if made[-1] == EOS and not request.ignores_eos:
            break
    return made


class NoText:
    """A text decoder that returns no text."""

    def add(self, token_id: int) -> str:
        return ""

    def rest(self) -> str:
        return ""

    def special_text(self, token_id: int) -> str:
        return ""


@dataclass
class HashEngine:
    """Returns results in any order, but those of a group in their own order."""

    random: Random
    shape: BatchShape
    supports_multi_step: bool
    fails_at: int = -1
    fails_stage_at: tuple[int, ...] = ()
    num_recovered: int = 0
    num_answered: int = 0
    num_steps: int = 0
    waiting: list[Message] = field(default_factory=list)
    caches: dict[int, np.ndarray] = field(default_factory=dict)

    def recover(self, failure: StageFailedError) -> None:
        del failure
        assert not self.waiting, "a failed engine has nothing in flight"
        self.num_recovered += 1
        self.caches.clear()

    def allocate(self, **_: int) -> None:
        assert not self.waiting, "caches that are in use stay"
        self.caches.clear()

    def submit(self, message: Message) -> None:
        if message.phase == "decode":
            assert not any(
                set(other.groups) & set(message.groups) for other in self.waiting
            )
        self.waiting.append(message)

    def _next(self) -> Message:
        """Removes any message, but the chunks of a micro-batch in their order."""
        message = self.random.choice(self.waiting)
        if message.phase == "prefill":
            same_prompts = [
                other
                for other in self.waiting
                if other.phase == "prefill" and other.micro_batch == message.micro_batch
            ]
            message = min(same_prompts, key=lambda other: other.step)
        self.waiting.remove(message)
        return message

    def _rows_of(self, message: Message) -> list[np.ndarray]:
        """Returns the slots of each row of a message, to be written to."""
        shape = (self.shape.decode_rows, self.shape.num_slots)
        per_group = len(message.slot_B) // len(message.groups)
        rows: list[np.ndarray] = []
        for group in message.groups:
            cache = self.caches.setdefault(group, np.full(shape, UNWRITTEN))
            rows += list(cache[message.first_row : message.first_row + per_group])
        return rows

    def _run_row(
        self,
        message: Message,
        slots: np.ndarray,
        given: np.ndarray,
        index: int,
        step: int,
    ) -> int:
        """Writes a row's tokens to its slots; returns the next one."""
        at = int(message.slot_B[index])
        seed = int(message.sampling.seed_low_B[index])
        if message.phase == "decode":
            position = min(at + step, self.shape.num_slots - 1)
            slots[position] = given
            return next_token(slots[: position + 1].tolist(), seed)
        first = message.first_position or 0
        assert first + len(given) <= self.shape.num_slots
        assert message.num_chunks > 1 or at <= first + len(given)
        padding = np.arange(first, first + len(given)) >= at
        slots[first : first + len(given)] = np.where(padding, UNWRITTEN, given)
        return next_token(slots[:at].tolist(), seed)

    def next_result(self) -> Message:
        message = self._next()
        self.num_answered += 1
        if self.num_answered in self.fails_stage_at:
            self.waiting.clear()
            msg = "stage 1 failed"
            raise StageFailedError(msg)
        if self.num_answered == self.fails_at:
            msg = "stage broke"
            raise RuntimeError(msg)
        steps: list[np.ndarray] = []
        for step in range(message.num_steps):
            payload = np.asarray(message.payload) if step == 0 else steps[-1]
            rows = enumerate(self._rows_of(message))
            tokens = [
                self._run_row(message, slots, payload[index], index, step)
                for index, slots in rows
            ]
            steps.append(np.array(tokens, np.int32))
        if message.checks_finite and steps[-1][0] == NOT_FINITE:
            message = replace(message, not_finite=NotFinite(1, 2))
        self.num_steps += message.num_steps
        if not self.supports_multi_step:
            return replace(message, payload=steps[-1])
        filler = [steps[-1]] * (MAX_STEPS_PER_CALL - len(steps))
        is_decode = message.phase == "decode"
        tokens = np.array(steps + filler) if is_decode else None
        return replace(message, payload=steps[-1], tokens=tokens)


@dataclass
class FirstComeEngine(HashEngine):
    """Returns results in the order of their messages, as a pipeline does, and keeps them."""

    answered: list[Message] = field(default_factory=list)

    def _next(self) -> Message:
        self.answered.append(self.waiting.pop(0))
        return self.answered[-1]
