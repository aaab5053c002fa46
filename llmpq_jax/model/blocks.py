"""Applies a function to prompts block by block, to bound temporary memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from llmpq_jax.model.positions import Context
from llmpq_jax.schema.buckets import token_block


def over_tokens(
    run: Callable[..., Any],
    module: nnx.Module,
    *arrays_BT: jax.Array,
    zero: Int[Array, ""],
    context: Context | None = None,
    is_in_place: bool = False,
) -> Any:
    """Returns a function's result for a module and arrays [B, T, ...].

    The result for a token must not depend on other tokens. Only one block's
    intermediate results are in memory at a time.

    Args:
        run: Function of the module and the arrays, and of the context if there is one.
        module: Module whose weights the function uses.
        arrays_BT: Arrays that are cut into blocks, each given as one row.
        zero: Zero from `cache.PromptCache.zero`. A single block is a step of a loop
            too: otherwise XLA would compute some results again, and keep each layer's
            operands of them until the end.
        context: Context of the tokens, cut into the same blocks, if the function has
            one.
        is_in_place: True to overwrite the first array with the result of its shape.
    """
    num_rows, num_tokens = arrays_BT[0].shape[:2]
    size = token_block(num_rows * num_tokens)
    graph, weights = nnx.split(module)
    arrays = tuple(array.reshape(-1, *array.shape[2:]) for array in arrays_BT)
    block = partial(_block, run, graph, context, size)
    start: Any = arrays[0]
    if not is_in_place:
        made = jax.eval_shape(block, weights, jnp.int32(0), arrays)
        start = _filler(made, arrays[0])
    step = partial(_step, block, weights, arrays, size, is_in_place)
    num_blocks = num_rows * num_tokens // size
    done = jax.lax.fori_loop(0, num_blocks + zero, step, start)
    return jax.tree.map(
        lambda array: array.reshape(num_rows, num_tokens, *array.shape[1:]), done
    )


def _block(
    run: Callable[..., Any],
    graph: Any,
    context: Context | None,
    size: int,
    weights: Any,
    number: jax.Array,
    arrays: tuple[jax.Array, ...],
) -> Any:
    """Returns the function's result for one block of the arrays' tokens."""
    first = number * size
    parts = [jax.lax.dynamic_slice_in_dim(array, first, size)[None] for array in arrays]
    more = {} if context is None else {"context": context.some_tokens(first, size)}
    return run(nnx.merge(graph, weights), *parts, **more)


def _step(
    block: Callable[..., Any],
    weights: Any,
    arrays: tuple[jax.Array, ...],
    size: int,
    is_in_place: bool,
    number: jax.Array,
    made: Any,
) -> Any:
    """Writes a block's result to its place in what was made of the blocks before."""
    # Bound to the step's number, the weights cannot be converted before the loop, which
    # would keep a float32 copy of all that are not float32.
    weights, number = jax.lax.optimization_barrier((weights, number))
    given = (made, *arrays[1:]) if is_in_place else arrays
    return jax.tree.map(
        lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
            whole, part[0], number * size, 0
        ),
        made,
        block(weights, number, given),
    )


def _filler(made: Any, source: jax.Array) -> Any:
    """Returns arrays for all tokens, all of which is overwritten.

    Zeros would be one array for all layers, kept until the end and copied for each.
    """
    element = source.ravel()[0]
    return jax.tree.map(
        lambda part: jnp.full(
            (len(source), *part.shape[2:]), element.astype(part.dtype)
        ),
        made,
    )
