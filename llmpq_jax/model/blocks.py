"""A layer's work on prompts, a block of tokens after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from llmpq_jax.model.positions import Context
from llmpq_jax.schema.prefill_blocks import token_block


def over_tokens(
    run: Callable[..., Any],
    module: nnx.Module,
    *arrays_BT: jax.Array,
    zero: Int[Array, ""],
    context: Context | None = None,
    is_in_place: bool = False,
) -> Any:
    """Returns what a function makes of a module and arrays [B, T, ...].

    What it makes of a token must not depend on other tokens. Only a block's inner
    results are in memory at a time.

    Args:
        run: Called with the module and the arrays, and the context if there is one.
        module: Whose weights it uses.
        arrays_BT: To be cut into blocks, and seen as one row each.
        zero: See `cache.PromptCache.zero`. A single block is a step of a loop too:
            else XLA would compute some results again, and keep what they are made of,
            of each layer, until the end.
        context: Of the tokens, cut likewise.
        is_in_place: The result, alike to the first array, takes its place.
    """
    num_rows, num_tokens = arrays_BT[0].shape[:2]
    size = token_block(num_rows * num_tokens)
    graph, state = nnx.split(module)

    def flat(array: jax.Array) -> jax.Array:
        return array.reshape(-1, *array.shape[2:])

    arrays = tuple(map(flat, arrays_BT))

    def block(weights: Any, number: jax.Array, arrays: tuple[jax.Array, ...]) -> Any:
        def cut(array: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(array, number * size, size)[None]

        told = {} if context is None else {"context": context.some_tokens(flat, cut)}
        return run(nnx.merge(graph, weights), *map(cut, arrays), **told)

    def step(number: jax.Array, made: Any) -> Any:
        # Bound to the step's number the weights cannot be converted before the loop,
        # which would keep a float32 copy of all that is not float32.
        weights, number = jax.lax.optimization_barrier((state, number))
        given = (made, *arrays[1:]) if is_in_place else arrays
        return jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
                whole, part[0], number * size, 0
            ),
            made,
            block(weights, number, given),
        )

    start: Any = arrays[0]
    if not is_in_place:
        made = jax.eval_shape(block, state, jnp.int32(0), arrays)
        # All of it is written over. Zeros would be one array for all layers, held to
        # the end and copied for each.
        anything = arrays[0].ravel()[0]
        start = jax.tree.map(
            lambda part: jnp.full(
                (num_rows * num_tokens, *part.shape[2:]), anything.astype(part.dtype)
            ),
            made,
        )
    num_blocks = num_rows * num_tokens // size
    done = jax.lax.fori_loop(0, num_blocks + zero, step, start)
    return jax.tree.map(
        lambda array: array.reshape(num_rows, num_tokens, *array.shape[1:]), done
    )
