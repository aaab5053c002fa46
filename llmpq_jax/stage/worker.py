"""A stage at work: its program, its caches, and a record of what it did when.

A plain class, whatever engine drives it; one thread at a time calls it.
"""

from __future__ import annotations

import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.module import GroupCache
from llmpq_jax.stage.placement import Placement
from llmpq_jax.stage.program import StageProgram
from llmpq_jax.stage.sampling import SamplingRows


class StageWorker:
    """Runs messages through one stage."""

    def __init__(self, program: StageProgram, *, stage: int, dtype: jnp.dtype) -> None:
        """Takes a stage's program, its number, and the type of activations and cache."""
        self.program = program
        self.stage = stage
        self.dtype = dtype
        self.events: list[StageEvent] = []
        self._caches: dict[int, GroupCache] = {}

    @property
    def placement(self) -> Placement:
        """Where the stage lives."""
        return self.program.placement

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes empty caches for so many groups of rows; the old ones are freed."""
        self._caches.clear()
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

    def expected_cache_bytes(self, *, num_rows: int, num_slots: int) -> int:
        """Returns what caches for so many rows will take on each device."""
        architecture = self.program.architecture
        heads = architecture.num_kv_heads * architecture.head_dim
        values = 2 * self.program.num_layers * num_rows * num_slots * heads
        return values * self.dtype.itemsize // self.placement.width

    def compile(
        self,
        *,
        prefill_rows: int,
        num_tokens: int,
        decode_rows: int,
        num_slots: int,
        has_decode: bool = True,
    ) -> None:
        """Compiles both phases ahead for the shapes of a batch."""
        describe = self.placement.describe
        groups = max(1, prefill_rows // decode_rows)
        cache = jax.eval_shape(lambda: self._empty_group(decode_rows, num_slots))
        cache = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self.placement.cache_sharding
            ),
            cache,
        )

        def rows(count: int) -> tuple[jax.ShapeDtypeStruct, SamplingRows]:
            float_B = describe((count,), jnp.float32)
            int_B = describe((count,), jnp.int32)
            sampling = SamplingRows(
                temperature_B=float_B,
                top_k_B=int_B,
                top_p_B=float_B,
                seed_B=describe((count,), jnp.uint32),
            )
            return int_B, sampling

        width = self.program.architecture.hidden_size
        lengths, sampling = rows(prefill_rows)
        prompt = (prefill_rows, num_tokens)
        inputs = self._describe_inputs(prompt, (*prompt, width))
        arguments = (
            inputs,
            (cache,) * groups,
            describe((), jnp.int32),
            lengths,
            sampling,
        )
        self.program.compile("prefill", "tokens", arguments)
        if has_decode:
            positions, sampling = rows(decode_rows)
            inputs = self._describe_inputs((decode_rows,), (decode_rows, 1, width))
            self.program.compile(
                "decode", "tokens", (inputs, cache, positions, sampling)
            )

    def process(self, message: Message, received_s: float) -> Message:
        """Does what a message asks and returns it with the result as payload.

        Waits until the result is ready, so that the record of events is true; the
        engine gives each worker a thread of its own.
        """
        started_s = time.perf_counter()
        caches = tuple(self._caches.pop(group) for group in message.groups)
        if message.phase == "prefill":
            payload, caches = self.program.prefill(
                message.payload,
                caches,
                message.first_row,
                message.place_B,
                message.sampling,
                wanted=message.wanted,
            )
        else:
            payload, cache = self.program.decode(
                message.payload,
                caches[0],
                message.place_B,
                message.sampling,
                wanted=message.wanted,
            )
            caches = (cache,)
        self._caches.update(zip(message.groups, caches, strict=True))
        payload.block_until_ready()
        self.events.append(
            StageEvent(
                stage=self.stage,
                phase=message.phase,
                micro_batch=message.micro_batch,
                step=message.step,
                received_s=received_s,
                started_s=started_s,
                ended_s=time.perf_counter(),
            )
        )
        return replace(message, payload=payload)

    def _describe_inputs(
        self, tokens: tuple[int, ...], hidden: tuple[int, ...]
    ) -> jax.ShapeDtypeStruct:
        if self.program.has_embedding:
            return self.placement.describe(tokens, jnp.int32)
        return self.placement.describe(hidden, self.dtype)

    def _empty_group(self, num_rows: int, num_slots: int) -> GroupCache:
        architecture = self.program.architecture
        return tuple(
            self.placement.empty_cache(architecture, num_rows, num_slots, self.dtype)
            for _ in range(self.program.num_layers)
        )


def sampling_rows(
    temperature: list[float], top_k: list[int], top_p: list[float], seed: list[int]
) -> SamplingRows:
    """Packs choices, one entry per row, in the types the compiled stage expects."""
    return SamplingRows(
        temperature_B=np.asarray(temperature, np.float32),
        top_k_B=np.asarray(top_k, np.int32),
        top_p_B=np.asarray(top_p, np.float32),
        seed_B=np.asarray(seed, np.uint32),
    )
