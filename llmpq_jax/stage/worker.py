"""A stage at work: its program, its caches, and a record of what it did when.

A plain class, whatever engine drives it; one thread at a time calls it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.schema.precision import SCALE_BYTES, KvBits, WireBits, kv_token_bytes
from llmpq_jax.stage.compiled import StageProgram, Wanted
from llmpq_jax.stage.hardware import Machine, machine_of
from llmpq_jax.stage.memory_peak import HighWaterMark, StagePeak, stage_peak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.module import GroupCache
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchNeeds:
    """Shapes that a stage must be ready for.

    Attributes:
        prefill_rows: Prompts of a prefill micro-batch.
        num_tokens: Slots of each of them.
        num_chunks: In which they come.
        decode_rows: Rows of a group.
        num_slots: Of a row's cache.
        has_decode: Whether any row wants a second token.
        wanted: What the last stage returns.
    """

    prefill_rows: int
    num_tokens: int
    num_chunks: int = 1
    decode_rows: int
    num_slots: int
    has_decode: bool = True
    wanted: Wanted = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFacts:
    """What holds of a stage as long as it is loaded.

    Attributes:
        weight_bytes: Of its weights on each of its devices, the fullest if they differ.
        slot_bytes: Of the cache of one token of one row on each of them.
        machine: The first of its devices, and what serves it.
    """

    weight_bytes: int
    slot_bytes: int
    machine: Machine

    def memory_bytes(self, *, num_rows: int, num_slots: int) -> int:
        """Returns what weights and the caches of so many rows take on each device."""
        return self.weight_bytes + num_rows * num_slots * self.slot_bytes


class StageWorker:
    """Runs messages through one stage."""

    def __init__(
        self,
        program: StageProgram,
        *,
        stage: int,
        dtype: jnp.dtype,
        kv_bits: KvBits = 16,
        received_bits: WireBits = 16,
    ) -> None:
        """Takes a program with the types of what it works on.

        Args:
            program: Of the stage.
            stage: Its number in the pipeline.
            dtype: Of activations.
            kv_bits: Of the cache.
            received_bits: Of hidden states that the stage before hands on.
        """
        self.program = program
        self.stage = stage
        self.dtype = dtype
        self.kv_bits: KvBits = kv_bits
        self.received_bits: WireBits = received_bits
        self._events: deque[StageEvent] = deque()
        self._caches: dict[int, GroupCache] = {}
        self._num_slots = 0
        self._prepared: set[BatchNeeds] = set()
        self._waiting = HighWaterMark()

    @property
    def placement(self) -> Placement:
        """Where the stage lives."""
        return self.program.placement

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes empty caches for so many groups of rows; the old ones are freed."""
        self._caches.clear()
        self._waiting.reset()
        self._num_slots = num_slots
        for group in range(num_groups):
            self._caches[group] = self._empty_group(num_rows, num_slots)

    def free(self) -> None:
        """Gives the caches' memory back."""
        self._caches.clear()

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches on each device of the stage."""
        leaves = jax.tree.leaves(self._caches)
        return sum(leaf.nbytes for leaf in leaves) // self.placement.width

    @property
    def facts(self) -> StageFacts:
        """What holds of the stage as long as it is loaded."""
        architecture = self.program.architecture
        token_bytes = kv_token_bytes(
            architecture.num_kv_heads // self.placement.width,
            architecture.head_dim,
            self.dtype.itemsize,
            kv_bits=self.kv_bits,
        )
        return StageFacts(
            weight_bytes=self.program.weight_bytes,
            slot_bytes=self.program.num_layers * token_bytes,
            machine=machine_of(self.placement.devices[0]),
        )

    @property
    def peak(self) -> StagePeak:
        """The most that the stage held; its caches count while they are allocated."""
        return stage_peak(
            self.placement.devices,
            weights=self.program.weight_bytes,
            kv_cache=self.cache_bytes,
            programs=self.program.working_bytes,
            waiting=self._waiting.highest,
        )

    def note_arrival(self, message: Message) -> None:
        """Counts what lies on the stage's devices until `process` is called with it."""
        self._waiting.add(message.payload.nbytes)

    def take_events(self) -> list[StageEvent]:
        """Returns what was worked on since the last call."""
        # One by one: the stage's thread may add another one meanwhile.
        return [self._events.popleft() for _ in range(len(self._events))]

    def prepare(self, needs: BatchNeeds) -> None:
        """Compiles both phases for the shapes of a batch, and runs each of them once.

        A first run costs more than those that follow: memory is touched for the first
        time, and XLA starts what it needs. Shapes that were prepared before cost nothing.
        """
        if needs in self._prepared:
            return
        prefill_rows, decode_rows = needs.prefill_rows, needs.decode_rows
        num_slots, num_chunks = needs.num_slots, needs.num_chunks
        group = self._empty_group(decode_rows, num_slots)
        more = max(1, prefill_rows // decode_rows) - 1
        caches = (
            group,
            *(self._empty_group(decode_rows, num_slots) for _ in range(more)),
        )
        _, caches = self.program.prefill(
            self._blank_inputs(prefill_rows, needs.num_tokens // num_chunks),
            caches,
            0,
            np.ones(prefill_rows, np.int32),
            greedy_rows(prefill_rows),
            first_position=None if num_chunks == 1 else 0,
            wanted=needs.wanted,
        )
        if needs.has_decode:
            inputs = self._blank_inputs(decode_rows, 1)
            position, sampling = (
                np.ones(decode_rows, np.int32),
                greedy_rows(decode_rows),
            )
            if self.program.takes_steps and needs.wanted == "tokens":
                last, *_ = self.program.take_steps(
                    inputs[:, 0], caches[0], position, sampling, num_steps=1
                )
            else:
                last, _ = self.program.decode(
                    inputs[:, 0] if self.program.has_embedding else inputs,
                    caches[0],
                    position,
                    sampling,
                    wanted=needs.wanted,
                )
            last.block_until_ready()
        jax.block_until_ready(caches[1:])
        self._prepared.add(needs)

    def process(self, message: Message, received_s: float) -> Message:
        """Does what a message asks and returns it with the result as payload.

        Waits until the result is ready, so that the record of events is true; the
        engine gives each worker a thread of its own.
        """
        started_s = time.perf_counter()
        self._waiting.add(-message.payload.nbytes)
        caches = tuple(self._caches.pop(group) for group in message.groups)
        tokens = None
        if message.phase == "prefill":
            payload, caches = self.program.prefill(
                message.payload,
                caches,
                message.first_row,
                message.slot_B,
                message.sampling,
                first_position=message.first_position,
                wanted=message.wanted,
            )
        elif self.program.takes_steps and message.wanted == "tokens":
            tokens, payload, cache = self.program.take_steps(
                message.payload,
                caches[0],
                message.slot_B,
                message.sampling,
                num_steps=message.num_steps,
            )
            caches = (cache,)
        else:
            payload, cache = self.program.decode(
                message.payload,
                caches[0],
                message.slot_B,
                message.sampling,
                wanted=message.wanted,
            )
            caches = (cache,)
        self._caches.update(zip(message.groups, caches, strict=True))
        payload.block_until_ready()
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
        return replace(message, payload=payload, tokens=tokens)

    def following(self, done: Message) -> Message:
        """Returns the message that asks for the decode step after one that is done."""
        # A row that has ended goes on in its last slot, which nobody reads.
        slot_B = np.minimum(done.slot_B + 1, self._num_slots - 1)
        return replace(
            done, step=done.step + 1, slot_B=slot_B, steps_left=done.steps_left - 1
        )

    def _tokens(self, message: Message) -> float:
        """Returns what `StageEvent.tokens` says of a message."""
        if message.phase == "prefill":
            return float(message.payload.shape[1])
        held = message.slot_B + 1 + (message.num_steps - 1) / 2
        return float(np.minimum(held, self._num_slots).mean())

    def _blank_inputs(self, num_rows: int, num_tokens: int) -> np.ndarray:
        if self.program.has_embedding:
            return np.zeros((num_rows, num_tokens), np.int32)
        width = self.program.architecture.hidden_size
        if self.received_bits == 8:
            return np.zeros((num_rows, num_tokens, width + SCALE_BYTES), np.int8)
        return np.zeros((num_rows, num_tokens, width), self.dtype)

    def _empty_group(self, num_rows: int, num_slots: int) -> GroupCache:
        architecture = self.program.architecture
        return tuple(
            self.placement.empty_cache(
                architecture,
                num_rows=num_rows,
                num_slots=num_slots,
                dtype=self.dtype,
                kv_bits=self.kv_bits,
            )
            for _ in range(self.program.num_layers)
        )
