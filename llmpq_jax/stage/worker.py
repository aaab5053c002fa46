"""One stage: its compiled program, its caches and the events of its work.

Every engine uses the same class; one thread at a time calls it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace

import jax
import numpy as np

from llmpq_jax.stage.compiled import OutputKind, StageProgram
from llmpq_jax.stage.finite_check import first_not_finite
from llmpq_jax.stage.hardware import Machine, machine_of
from llmpq_jax.stage.memory_peak import HighWaterMark, StagePeak
from llmpq_jax.stage.message import Message, NotFinite, StageEvent
from llmpq_jax.stage.module import GroupCache
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import StageSharding


@dataclass(frozen=True, kw_only=True, slots=True)
class StageShapes:
    """Input shapes that a stage compiles its phases for.

    Attributes:
        prefill_rows: Prompts of a prefill micro-batch.
        num_tokens: Tokens of each prompt, padding included.
        num_chunks: Number of chunks that the prompts are cut into.
        decode_rows: Rows of a decode group.
        num_slots: Slots of a row's cache.
        has_prefill: Whether prefill is compiled.
        has_decode: Whether decode is compiled.
        output: Kind of output that the last stage returns.
        num_head_inputs: Integers of each row that the head needs, which in prefill then
            runs apart from the layers; None if it needs none.
    """

    prefill_rows: int
    num_tokens: int
    num_chunks: int = 1
    decode_rows: int
    num_slots: int
    has_prefill: bool = True
    has_decode: bool = True
    output: OutputKind = "tokens"
    num_head_inputs: int | None = None

    def head_inputs(self, num_rows: int) -> np.ndarray | None:
        """Returns inputs of the head without meaning, of the right shape."""
        if self.num_head_inputs is None:
            return None
        return np.zeros((num_rows, self.num_head_inputs), np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """Properties of a stage that do not change while it is loaded.

    Attributes:
        weight_bytes: Bytes of its weights on each of its devices, on the fullest if they
            differ.
        slot_bytes: Bytes of the cache of one token of one row on each device.
        machine: First of its devices, with its driver and kernels.
    """

    weight_bytes: int
    slot_bytes: int
    machine: Machine

    def memory_bytes(self, *, num_rows: int, num_slots: int) -> int:
        """Returns the bytes of weights and of the caches of all rows, on each device."""
        return self.weight_bytes + num_rows * num_slots * self.slot_bytes


class StageWorker:
    """Runs messages through one stage."""

    def __init__(self, program: StageProgram, *, stage: int) -> None:
        """Takes a program, and the number of its stage."""
        self.program = program
        self.stage = stage
        self._events: deque[StageEvent] = deque()
        self.caches: dict[int, GroupCache] = {}
        self._num_slots = 0
        self._prepared: set[StageShapes] = set()
        self._inbox_bytes = HighWaterMark()

    @property
    def sharding(self) -> StageSharding:
        """Devices of the stage, and how arrays are sharded over them."""
        return self.program.sharding

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes the empty caches of all groups; older ones are freed first."""
        self.caches.clear()
        self._inbox_bytes.reset()
        self._num_slots = num_slots
        for group in range(num_groups):
            self.caches[group] = self.program.group_cache(num_rows, num_slots)

    def free(self) -> None:
        """Frees the caches."""
        self.caches.clear()

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches on each device of the stage."""
        leaves = jax.tree.leaves(self.caches)
        return sum(leaf.nbytes for leaf in leaves) // self.sharding.width

    @property
    def facts(self) -> StageFacts:
        """Properties of the stage that do not change while it is loaded."""
        return StageFacts(
            weight_bytes=self.program.weight_bytes,
            slot_bytes=self.program.slot_bytes,
            machine=machine_of(self.sharding.devices[0]),
        )

    @property
    def peak(self) -> StagePeak:
        """Peak memory of the stage; caches count while they are allocated."""
        return StagePeak.of(
            self.sharding.devices,
            weights=self.program.weight_bytes,
            kv_cache=self.cache_bytes,
            programs=self.program.working_bytes,
            waiting=self._inbox_bytes.highest,
        )

    def count_received(self, message: Message) -> None:
        """Counts the bytes of a message that waits on the devices to be processed."""
        self._inbox_bytes.add(message.payload.nbytes)

    def take_events(self) -> list[StageEvent]:
        """Returns and forgets the events since the last call."""
        # One by one, because the stage's thread may add another event meanwhile.
        return [self._events.popleft() for _ in range(len(self._events))]

    def prepare(self, shapes: StageShapes) -> None:
        """Compiles the phases for the shapes of a batch, and runs each once.

        The first run of a program takes longer than later ones: memory is touched for the
        first time, and XLA starts its threads. Preparing the same shapes again is free.
        """
        if shapes in self._prepared:
            return
        num_rows = shapes.prefill_rows
        caches = tuple(
            self.program.group_cache(shapes.decode_rows, shapes.num_slots)
            for _ in range(max(1, num_rows // shapes.decode_rows))
        )
        if shapes.has_prefill:
            caches = self._prepare_prefill(caches, shapes)
        if shapes.has_decode:
            self._prepare_decode(caches[0], shapes)
        jax.block_until_ready(caches[1:])
        self._prepared.add(shapes)

    def _prepare_prefill(
        self, caches: tuple[GroupCache, ...], shapes: StageShapes
    ) -> tuple[GroupCache, ...]:
        num_rows = shapes.prefill_rows
        result, caches = self.program.prefill(
            self._blank_inputs(num_rows, shapes.num_tokens // shapes.num_chunks),
            caches,
            0,
            np.ones(num_rows, np.int32),
            greedy_rows(num_rows),
            first_position=None if shapes.num_chunks == 1 else 0,
            output=shapes.output,
            head_inputs=shapes.head_inputs(num_rows),
        )
        result.block_until_ready()
        return caches

    def _prepare_decode(self, cache: GroupCache, shapes: StageShapes) -> None:
        num_rows = shapes.decode_rows
        inputs = self._blank_inputs(num_rows, None)
        arguments = (inputs, cache, np.ones(num_rows, np.int32), greedy_rows(num_rows))
        head_inputs = shapes.head_inputs(num_rows)
        if (
            self.program.is_whole_model
            and shapes.output == "tokens"
            and head_inputs is None
        ):
            result, *_ = self.program.decode_steps(*arguments, num_steps=1)
        else:
            result, _ = self.program.decode(
                *arguments, output=shapes.output, head_inputs=head_inputs
            )
        result.block_until_ready()

    def process(self, message: Message, received_s: float) -> Message:
        """Runs a micro-batch, and returns its message with the result as payload.

        Waits until the result is ready, so that the times of events are true; the engine
        gives each worker a thread of its own.
        """
        started_s = time.perf_counter()
        self._inbox_bytes.add(-message.payload.nbytes)
        caches = tuple(self.caches.pop(group) for group in message.groups)
        rows = (message.slot_B, message.sampling)
        tokens = None
        if message.phase == "prefill":
            payload, caches = self.program.prefill(
                message.payload,
                caches,
                message.first_row,
                *rows,
                first_position=message.first_position,
                output=message.output,
                head_inputs=message.head_inputs,
            )
        elif self._can_repeat(message):
            tokens, payload, *caches = self.program.decode_steps(
                message.payload, caches[0], *rows, num_steps=message.num_steps
            )
        else:
            payload, *caches = self.program.decode(
                message.payload,
                caches[0],
                *rows,
                output=message.output,
                head_inputs=message.head_inputs,
            )
        payload.block_until_ready()
        not_finite = message.not_finite
        if message.checks_finite and not_finite is None:
            part, caches = first_not_finite(
                self.program, message, payload, tuple(caches)
            )
            not_finite = None if part is None else NotFinite(self.stage, part)
        self.caches.update(zip(message.groups, caches, strict=True))
        self._events.append(
            StageEvent(
                stage=self.stage,
                phase=message.phase,
                micro_batch=message.micro_batch,
                step=message.step,
                num_steps=message.num_steps,
                received_s=received_s,
                started_s=started_s,
                ended_s=time.perf_counter(),
                rows=len(message.slot_B),
                tokens=self._tokens(message),
                slots=self._num_slots,
            )
        )
        return replace(message, payload=payload, tokens=tokens, not_finite=not_finite)

    def _can_repeat(self, message: Message) -> bool:
        """Whether the stage runs several decode steps of a message at a time."""
        return (
            self.program.is_whole_model
            and message.output == "tokens"
            and message.head_inputs is None
        )

    def next_step(self, result: Message) -> Message:
        """Returns the message of the decode step after one that is done."""
        # A finished row writes to its last slot again, which is never read.
        slot_B = np.minimum(result.slot_B + 1, self._num_slots - 1)
        step, steps_left = result.step + 1, result.steps_left - 1
        return replace(result, step=step, slot_B=slot_B, steps_left=steps_left)

    def _tokens(self, message: Message) -> float:
        """Returns the value of `StageEvent.tokens` for a message."""
        if message.phase == "prefill":
            return float(message.payload.shape[1])
        held = message.slot_B + 1 + (message.num_steps - 1) / 2
        return float(np.minimum(held, self._num_slots).mean())

    def _blank_inputs(self, num_rows: int, num_tokens: int | None) -> np.ndarray:
        return np.zeros(*self.program.input_shape(num_rows, num_tokens))
