"""Compiles a stage: one executable per function and shape, with donated caches."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from llmpq_jax.model import make_cache
from llmpq_jax.schema.precision import SCALE_BYTES, KvBits, WireBits, kv_token_bytes
from llmpq_jax.stage.bodies import BODIES, Function, OutputKind
from llmpq_jax.stage.module import GroupCache, StageModule, last_hidden
from llmpq_jax.stage.sampling import SamplingRows, pack_rows
from llmpq_jax.stage.sharding import CACHE_PARTITION, TENSOR_AXIS, StageSharding

Phase = Literal["prefill", "decode"]

# The default scheduler of XLA:CPU hoists every conversion of a stage's weights to its
# start and so keeps a float32 copy of the whole stage alive.
_CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class StageProgram:
    """The compiled functions of one stage.

    The module is flattened once: merging it inside `jax.jit` adds nothing to a compiled
    call, while `nnx.jit` would walk the module on every step.

    Attributes:
        leaves: Arrays of the stage's weights; may be replaced by others of the same
            shapes, or by descriptions to compile for.
        tree: Structure of the module's state, of which these are the leaves.
        executables: Compiled functions by function, output, types and shapes.
    """

    def __init__(
        self,
        module: StageModule,
        sharding: StageSharding,
        *,
        kv_bits: KvBits = 16,
        received_bits: WireBits = 16,
    ) -> None:
        self.architecture = module.architecture
        self.dtype = module.dtype
        self.sharding = sharding
        self.kv_bits: KvBits = kv_bits
        self.received_bits: WireBits = received_bits
        self.has_embedding = module.embedding is not None
        self.has_head = module.head is not None
        self.num_layers = len(module.layers)
        self._graph, state = nnx.split(module)
        self.leaves: list[Any]
        self.leaves, self.tree = jax.tree.flatten(state)
        self.executables: dict[Any, jax.stages.Compiled] = {}
        # Bytes on a device of the caches that each executable takes.
        self._cache_bytes: dict[Any, int] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on the device that holds the largest share."""
        held: Counter[Any] = Counter()
        for leaf in self.leaves:
            for shard in leaf.addressable_shards:
                held[shard.device] += shard.data.nbytes
        return max(held.values())

    @property
    def slot_bytes(self) -> int:
        """Bytes of the cache of one token of one row, on each device."""
        return self.num_layers * kv_token_bytes(
            self.architecture.num_kv_heads // self.sharding.width,
            self.architecture.head_dim,
            self.dtype.itemsize,
            kv_bits=self.kv_bits,
        )

    @property
    def working_bytes(self) -> int:
        """Largest working memory of an executable, on each device.

        These are its inputs, outputs and temporary memory, without weights and caches; 0
        before anything is compiled.
        """
        weight_bytes = self.weight_bytes
        working_bytes = 0
        for key, executable in self.executables.items():
            memory = executable.memory_analysis()
            assert memory is not None, "CPUs and GPUs report it"
            total = memory.argument_size_in_bytes + memory.output_size_in_bytes
            total += memory.temp_size_in_bytes - memory.alias_size_in_bytes
            own = total - weight_bytes - self._cache_bytes[key]
            working_bytes = max(working_bytes, own)
        return working_bytes

    def input_shape(
        self, num_rows: int, num_tokens: int | None
    ) -> tuple[tuple[int, ...], Any]:
        """Returns shape and type of inputs; `num_tokens` is None for decode."""
        if self.has_embedding:
            shape = (num_rows,) if num_tokens is None else (num_rows, num_tokens)
            return shape, jnp.int32
        shape = (num_rows, num_tokens or 1, self.architecture.hidden_size)
        if self.received_bits == 8:
            return (*shape[:2], shape[2] + SCALE_BYTES), jnp.int8
        return shape, self.dtype

    def group_cache(
        self, num_rows: int, num_slots: int, *, is_described: bool = False
    ) -> GroupCache:
        """Allocates a group's empty cache, or describes it to compile for."""
        sharding = NamedSharding(self.sharding.mesh, CACHE_PARTITION)
        make = partial(jnp.zeros, device=sharding)
        if is_described:
            make = partial(jax.ShapeDtypeStruct, sharding=sharding)
        return tuple(
            make_cache(
                make,
                self.architecture,
                num_rows=num_rows,
                num_slots=num_slots,
                dtype=self.dtype,
                kv_bits=self.kv_bits,
            )
            for _ in range(self.num_layers)
        )

    def prefill(
        self,
        inputs: jax.Array | np.ndarray,
        caches: tuple[GroupCache, ...],
        first_row: int,
        length_B: np.ndarray,
        sampling: SamplingRows,
        *,
        first_position: int | None = None,
        output: OutputKind = "tokens",
        head_inputs: np.ndarray | None = None,
    ) -> tuple[jax.Array, tuple[GroupCache, ...]]:
        """Runs prompts, or a chunk (`StageModule.prefill`); given caches are donated.

        With `head_inputs` the head runs apart (`choose`).

        Returns:
            Hidden states, or from the last stage each row's next token [B], its packed
            log-probabilities [B, N], or all logits [B, T, V]; and the caches. The next
            token of a row whose prompt does not end in the chunk has no meaning. If the
            output is "finite", whether the hidden states before the first layer, and
            those after each layer, are finite, [1 + layers].
        """
        function: Function = "prefill"
        start: Any = np.int32(first_row)
        if first_position is not None:
            function, start = "extend", np.array([first_row, first_position], np.int32)
        inputs, start, rows = self.sharding.put(
            (inputs, start, self.pack(length_B, sampling))
        )
        arguments = (inputs, caches, start, rows)
        if head_inputs is None or not self.has_head:
            return self.run(function, output, arguments)
        hidden, caches = self.run(function, "hidden", arguments)
        chosen = self.choose(
            hidden,
            length_B - (first_position or 0),
            length_B,
            sampling,
            output=output,
            extra=head_inputs,
        )
        return chosen, caches

    def decode(
        self,
        inputs: jax.Array | np.ndarray,
        cache: GroupCache,
        position_B: np.ndarray,
        sampling: SamplingRows,
        *,
        output: OutputKind = "tokens",
        head_inputs: np.ndarray | None = None,
    ) -> tuple[jax.Array, GroupCache]:
        """Runs one token of each row (`StageModule.decode`); the given cache is donated.

        `head_inputs` are adjustments of the logits (`pack_adjustments`).

        Returns:
            Hidden states, or from the last stage each row's next token [B], its packed
            log-probabilities [B, N], or logits [B, V]; and the cache.
        """
        sent = [inputs, self.pack(position_B, sampling)]
        if head_inputs is not None and self.has_head:
            sent.append(head_inputs)
        inputs, *others = self.sharding.put(sent)
        return self.run("decode", output, (inputs, cache, *others))

    @property
    def is_whole_model(self) -> bool:
        """Whether the stage has the embedding and the head: its tokens can be fed back."""
        return self.has_embedding and self.has_head

    def decode_steps(
        self,
        inputs: jax.Array | np.ndarray,
        cache: GroupCache,
        position_B: np.ndarray,
        sampling: SamplingRows,
        *,
        num_steps: int,
    ) -> tuple[jax.Array, jax.Array, GroupCache]:
        """Decodes several tokens of each row in one call; the given cache is donated.

        Returns tokens [MAX_STEPS_PER_CALL, B], the first `num_steps` of them valid; the
        last ones [B]; and the cache.
        """
        inputs, rows, steps = self.sharding.put(
            (inputs, self.pack(position_B, sampling), np.int32(num_steps))
        )
        return self.run("steps", "tokens", (inputs, cache, rows, steps))

    def choose(
        self,
        hidden: jax.Array,
        end_B: np.ndarray,
        position_B: np.ndarray,
        sampling: SamplingRows,
        *,
        output: OutputKind,
        extra: np.ndarray,
    ) -> jax.Array:
        """Runs the head alone on hidden states [B, T, D], and chooses next tokens.

        Args:
            hidden: Result of a function whose output is "hidden".
            end_B: Number of each row's tokens among them, after the last of which the
                next one follows.
            position_B: Position of the next token, for which it is sampled.
            sampling: Sampling parameters of each row.
            output: Kind of output: "tokens", "adjusted", "adjusted_logprobs" or
                "prompt_logprobs".
            extra: Integers [B, N] that the output needs.

        Returns:
            What `bodies` says of the head.
        """
        if output != "prompt_logprobs":
            # So that the head is compiled once, whatever the length of the prompt.
            hidden = _last_hidden(hidden, self.sharding.put(end_B.astype(np.int32)))
            end_B = np.ones_like(end_B)
        rows = np.concatenate([end_B[None], pack_rows(position_B, sampling)])
        rows, extra_BN = self.sharding.put((rows.astype(np.int32), extra))
        result, _ = self.run("head", output, (hidden, (), rows, extra_BN))
        return result

    def pack(self, slot_B: np.ndarray, sampling: SamplingRows) -> np.ndarray:
        """Packs the numbers of each row; only a stage with the head needs sampling."""
        return pack_rows(slot_B, sampling if self.has_head else None)

    def compile(
        self, function: Function, output: OutputKind, arguments: tuple[Any, ...]
    ) -> Any:
        """Returns the executable for arguments of these shapes, compiled at the first call.

        Arguments are arrays on this stage's mesh, or their descriptions
        (`StageSharding.describe`); it is called as `executable(leaves, *arguments)`.
        """
        inputs, caches = arguments[:2]
        if not self.has_head and output != "finite":
            # Hidden states are the same whatever the last stage returns.
            output = "tokens"
        # All caches of a stage have the same shape and type.
        blocks = jax.tree.leaves(caches)
        others = tuple(each.shape for each in arguments[2:])
        shapes = (inputs.shape, len(blocks), *(each.shape for each in blocks[:1]))
        types = (str(inputs.dtype), str(blocks[0].dtype) if blocks else "")
        key = (function, output, types, shapes, others)
        if key not in self.executables:
            jitted = self.jitted(function, output, arguments)
            self.executables[key] = jitted.lower(self.leaves, *arguments).compile()
            sizes = [block.size * block.dtype.itemsize for block in blocks]
            self._cache_bytes[key] = sum(sizes) // self.sharding.width
        return self.executables[key]

    def run(
        self, function: Function, output: OutputKind, arguments: tuple[Any, ...]
    ) -> Any:
        """Runs a function on arguments on this stage's mesh; see `compile`."""
        return self.compile(function, output, arguments)(self.leaves, *arguments)

    def jitted(
        self, function: Function, output: OutputKind, arguments: tuple[Any, ...]
    ) -> Any:
        """Returns a function under `jax.jit`, for arguments such as `compile` takes."""
        merge = partial(_merged, self._graph, self.tree)
        body = partial(BODIES[function], merge, output)
        shardings: dict[str, Any] = {}
        if self.sharding.width > 1:
            mesh = self.sharding.mesh
            leaves = [leaf.sharding.spec for leaf in self.leaves]
            caches = jax.tree.map(lambda _: CACHE_PARTITION, arguments[1])
            whole = [
                jax.tree.map(lambda _: PartitionSpec(), each) for each in arguments
            ]
            results = [PartitionSpec()] * (2 if function == "steps" else 1)
            returned = (*results, caches)
            # JAX pairs each donated cache with its output only if it knows the outputs'
            # shardings. Otherwise XLA pairs buffers by size: it may give a cache's buffer
            # to hidden states of the same size, and then copies every cache.
            shardings = {
                "out_shardings": jax.tree.map(partial(NamedSharding, mesh), returned)
            }
            body = jax.shard_map(
                body,
                mesh=mesh,
                in_specs=(leaves, whole[0], caches, *whole[2:]),
                out_specs=returned,
                axis_names={TENSOR_AXIS},
                check_vma=False,
            )
        is_cpu = self.sharding.platform == "cpu"
        return jax.jit(
            body,
            donate_argnums=(2,),
            compiler_options=_CPU_OPTIONS if is_cpu else None,
            **shardings,
        )


@jax.jit
def _last_hidden(hidden_BTD: jax.Array, end_B: jax.Array) -> jax.Array:
    return last_hidden(hidden_BTD, end_B)[:, None]


def _merged(graph: Any, tree: Any, leaves: list[jax.Array]) -> StageModule:
    return nnx.merge(graph, jax.tree.unflatten(tree, leaves))
