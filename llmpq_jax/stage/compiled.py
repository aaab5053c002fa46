"""A stage compiled: one executable per phase and shape, caches donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from llmpq_jax.schema.buckets import STEPS_AT_ONCE
from llmpq_jax.stage.module import GroupCache, StageModule, last_hidden
from llmpq_jax.stage.sampling import (
    SamplingRows,
    choose_tokens,
    pack_rows,
    unpack_rows,
    with_logprobs,
)
from llmpq_jax.stage.sharding import CACHE_PARTITION, TENSOR_AXIS, Placement

Phase = Literal["prefill", "decode"]
# "extend" is prefill of one chunk of long prompts, "steps" is decode many times over, on
# a stage that is the whole model.
Function = Literal["prefill", "extend", "decode", "steps"]
Wanted = Literal["tokens", "logprobs", "logits"]

# The default scheduler of XLA:CPU hoists every conversion of a stage's weights to its
# start and so keeps a float32 copy of the whole stage alive.
_CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class StageProgram:
    """The compiled functions of one stage.

    The module's leaves are flattened once: merging them inside `jax.jit` costs a
    traced call nothing, while `nnx.jit` would walk the module on every step.
    """

    def __init__(self, module: StageModule, placement: Placement) -> None:
        self.architecture = module.architecture
        self.placement = placement
        self.has_embedding = module.embedding is not None
        self.has_head = module.head is not None
        self.num_layers = len(module.layers)
        self._graph, state = nnx.split(module)
        self._leaves, self._tree = jax.tree.flatten(state)
        self._executables: dict[Any, jax.stages.Compiled] = {}
        # Of the caches that each of them is given, on a device.
        self._cache_bytes: dict[Any, int] = {}

    @property
    def leaves(self) -> list[jax.Array]:
        """All arrays of its weights."""
        return list(self._leaves)

    def hold(self, leaves: list[Any]) -> None:
        """Takes other arrays for its weights, or descriptions to be compiled for."""
        self._leaves = leaves

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on the device that holds most of them."""
        held: dict[Any, int] = {}
        for leaf in self._leaves:
            for shard in leaf.addressable_shards:
                held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
        return max(held.values())

    @property
    def working_bytes(self) -> int:
        """Bytes that the hungriest executable takes beside weights and caches.

        Its inputs, outputs and temporary memory on each device; 0 before any is there.
        """
        weight_bytes = self.weight_bytes
        needs = [0]
        for key, executable in self._executables.items():
            said = executable.memory_analysis()
            assert said is not None, "CPUs and GPUs tell it"
            arguments, outputs = said.argument_size_in_bytes, said.output_size_in_bytes
            whole = arguments + outputs + said.temp_size_in_bytes
            whole -= said.alias_size_in_bytes
            needs.append(whole - weight_bytes - self._cache_bytes[key])
        return max(needs)

    def prefill(
        self,
        inputs: jax.Array | np.ndarray,
        caches: tuple[GroupCache, ...],
        first_row: int,
        length_B: np.ndarray,
        sampling: SamplingRows,
        *,
        first_position: int | None = None,
        wanted: Wanted = "tokens",
    ) -> tuple[jax.Array, tuple[GroupCache, ...]]:
        """Runs prompts, or a chunk of long ones; the caches given are consumed.

        See `StageModule.prefill` and, where there is a `first_position`,
        `StageModule.extend`.

        Returns:
            Hidden states, or from the last stage each row's next token [B], packed with
            log-probabilities [B, N], or all logits [B, T, V]; and the caches. The next token of a row whose prompt does
            not end in the chunk means nothing.
        """
        packed = self.pack(length_B, sampling)
        if first_position is None:
            inputs, row, rows = self.placement.put(
                (inputs, np.int32(first_row), packed)
            )
            return self._run("prefill", wanted, (inputs, caches, row, rows))
        start = np.array([first_row, first_position], np.int32)
        inputs, start, rows = self.placement.put((inputs, start, packed))
        return self._run("extend", wanted, (inputs, caches, start, rows))

    def decode(
        self,
        inputs: jax.Array | np.ndarray,
        cache: GroupCache,
        position_B: np.ndarray,
        sampling: SamplingRows,
        *,
        wanted: Wanted = "tokens",
    ) -> tuple[jax.Array, GroupCache]:
        """Runs one token of each row; see `StageModule.decode`. The cache is consumed.

        Returns:
            Hidden states, or from the last stage each row's next token [B], packed with
            log-probabilities [B, N], or logits [B, V]; and the cache.
        """
        inputs, rows = self.placement.put((inputs, self.pack(position_B, sampling)))
        return self._run("decode", wanted, (inputs, cache, rows))

    @property
    def takes_steps(self) -> bool:
        """Whether the stage is the whole model, and so can feed its tokens back."""
        return self.has_embedding and self.has_head

    def take_steps(
        self,
        inputs: jax.Array | np.ndarray,
        cache: GroupCache,
        position_B: np.ndarray,
        sampling: SamplingRows,
        *,
        num_steps: int,
    ) -> tuple[jax.Array, jax.Array, GroupCache]:
        """Decodes several tokens of each row without a stop; the cache is consumed.

        Args:
            inputs: [B] tokens.
            cache: Of the group.
            position_B: Of the tokens given.
            sampling: Of the rows.
            num_steps: At most `STEPS_AT_ONCE`.

        Returns:
            Tokens [STEPS_AT_ONCE, B], the first `num_steps` of them valid; the last
            ones [B]; and the cache.
        """
        inputs, rows, steps = self.placement.put(
            (inputs, self.pack(position_B, sampling), np.int32(num_steps))
        )
        return self._run("steps", "tokens", (inputs, cache, rows, steps))

    def pack(self, slot_B: np.ndarray, sampling: SamplingRows) -> np.ndarray:
        """Packs what is told of rows; only a stage with the head samples."""
        return pack_rows(slot_B, sampling if self.has_head else None)

    def compile(
        self, function: Function, wanted: Wanted, arguments: tuple[Any, ...]
    ) -> Any:
        """Compiles for arguments of these shapes, or finds the executable again.

        Args:
            function: Which one.
            wanted: What the last stage returns.
            arguments: On this stage's mesh, or described so (`describe`).

        Returns:
            The executable, called as `executable(leaves, *arguments)`.
        """
        inputs, caches = arguments[:2]
        if not self.has_head:
            # It hands on the same whatever the last one is to make of it.
            wanted = "tokens"
        # All caches of a stage are alike.
        blocks = jax.tree.leaves(caches)
        shapes = (inputs.shape, len(blocks), blocks[0].shape if blocks else None)
        types = (str(inputs.dtype), str(blocks[0].dtype) if blocks else "")
        key = (function, wanted, types, shapes)
        if key not in self._executables:
            jitted = self._jitted(function, wanted, arguments)
            self._executables[key] = jitted.lower(self._leaves, *arguments).compile()
            sizes = [block.size * block.dtype.itemsize for block in blocks]
            self._cache_bytes[key] = sum(sizes) // self.placement.width
        return self._executables[key]

    def _run(
        self, function: Function, wanted: Wanted, arguments: tuple[Any, ...]
    ) -> Any:
        return self.compile(function, wanted, arguments)(self._leaves, *arguments)

    def _jitted(
        self, function: Function, wanted: Wanted, arguments: tuple[Any, ...]
    ) -> Any:
        body = partial(
            _BODIES[function],
            self._graph,
            self._tree,
            wanted,
        )
        lie: dict[str, Any] = {}
        if self.placement.width > 1:
            mesh = self.placement.mesh
            caches = jax.tree.map(lambda _: CACHE_PARTITION, arguments[1])
            whole = [
                jax.tree.map(lambda _: PartitionSpec(), item) for item in arguments
            ]
            returned = (
                *[PartitionSpec()] * (2 if function == "steps" else 1),
                caches,
            )
            # Only where JAX knows how outputs lie does it say itself which cache takes
            # whose place. XLA goes by bytes and may give a cache's to hidden states of
            # the same size, and then copies every cache.
            lie = {
                "out_shardings": jax.tree.map(partial(NamedSharding, mesh), returned)
            }
            body = jax.shard_map(
                body,
                mesh=mesh,
                in_specs=(
                    [leaf.sharding.spec for leaf in self._leaves],
                    whole[0],
                    caches,
                    *whole[2:],
                ),
                out_specs=returned,
                axis_names={TENSOR_AXIS},
                check_vma=False,
            )
        is_cpu = self.placement.platform == "cpu"
        return jax.jit(
            body,
            donate_argnums=(2,),
            compiler_options=_CPU_OPTIONS if is_cpu else None,
            **lie,
        )


def _prefill_body(
    graph: Any,
    tree: Any,
    wanted: Wanted,
    leaves: list[jax.Array],
    inputs: jax.Array,
    caches: tuple[GroupCache, ...],
    first_row: jax.Array,
    rows: jax.Array,
) -> tuple[jax.Array, tuple[GroupCache, ...]]:
    module = nnx.merge(graph, jax.tree.unflatten(tree, leaves))
    with jax.named_scope("prefill"):
        hidden, caches = module.prefill(inputs, caches, first_row)
        return _after_prompts(module, wanted, hidden, 0, rows), caches


def _extend_body(
    graph: Any,
    tree: Any,
    wanted: Wanted,
    leaves: list[jax.Array],
    inputs: jax.Array,
    caches: tuple[GroupCache, ...],
    start: jax.Array,
    rows: jax.Array,
) -> tuple[jax.Array, tuple[GroupCache, ...]]:
    first_row, first_position = start
    module = nnx.merge(graph, jax.tree.unflatten(tree, leaves))
    with jax.named_scope("extend"):
        hidden, caches = module.extend(inputs, caches, first_row, first_position)
        return _after_prompts(module, wanted, hidden, first_position, rows), caches


def _after_prompts(
    module: StageModule,
    wanted: Wanted,
    hidden: jax.Array,
    first_position: jax.Array | int,
    rows: jax.Array,
) -> jax.Array:
    """Returns what a stage hands on of prompts that begin at a position."""
    if module.head is None:
        return module.handed_on(hidden)
    if wanted == "logits":
        return module.head(hidden)
    length_B, sampling = unpack_rows(rows)
    assert sampling is not None
    logits = module.head(last_hidden(hidden, length_B - first_position))
    return _chosen(wanted, logits, sampling, length_B)


def _chosen(
    wanted: Wanted, logits: jax.Array, sampling: SamplingRows, position_B: jax.Array
) -> jax.Array:
    """Returns each row's token, with log-probabilities where they are wanted."""
    if wanted == "tokens":
        return choose_tokens(logits, sampling, position_B)
    # Computed once, as for tokens alone: what else is told of them moves no bit.
    logits = jax.lax.optimization_barrier(logits)
    return with_logprobs(logits, choose_tokens(logits, sampling, position_B))


def _decode_body(
    graph: Any,
    tree: Any,
    wanted: Wanted,
    leaves: list[jax.Array],
    inputs: jax.Array,
    cache: GroupCache,
    rows: jax.Array,
) -> tuple[jax.Array, GroupCache]:
    position_B, sampling = unpack_rows(rows)
    module = nnx.merge(graph, jax.tree.unflatten(tree, leaves))
    with jax.named_scope("decode"):
        hidden, cache = module.decode(inputs, cache, position_B)
        if module.head is None:
            return module.handed_on(hidden), cache
        logits = module.head(hidden[:, 0])
        if wanted == "logits":
            return logits, cache
        assert sampling is not None
        return _chosen(wanted, logits, sampling, position_B + 1), cache


def _steps_body(
    graph: Any,
    tree: Any,
    wanted: Wanted,
    leaves: list[jax.Array],
    inputs: jax.Array,
    cache: GroupCache,
    rows: jax.Array,
    num_steps: jax.Array,
) -> tuple[jax.Array, jax.Array, GroupCache]:
    last_slot = cache[0].num_slots - 1

    def step(number: jax.Array, state: Any) -> Any:
        tokens_TB, last_B, cache = state
        # Bound to the step's number the weights cannot be converted before the loop,
        # which would keep a float32 copy of all that is not float32.
        held, number = jax.lax.optimization_barrier((leaves, number))
        # A row that has ended goes on in its last slot, which nobody reads.
        here = rows.at[0].set(jnp.minimum(rows[0] + number, last_slot))
        next_B, cache = _decode_body(graph, tree, wanted, held, last_B, cache, here)
        return tokens_TB.at[number].set(next_B), next_B, cache

    tokens_TB = jnp.zeros((STEPS_AT_ONCE, inputs.shape[0]), jnp.int32)
    return jax.lax.fori_loop(0, num_steps, step, (tokens_TB, inputs, cache))


_BODIES: dict[Function, Callable[..., Any]] = {
    "prefill": _prefill_body,
    "extend": _extend_body,
    "decode": _decode_body,
    "steps": _steps_body,
}
