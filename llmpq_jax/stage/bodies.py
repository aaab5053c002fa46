"""The traced functions of a stage, which `StageProgram` compiles.

Each takes a function that returns the stage's module for its leaves, the kind of output, and
then what the compiled function takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL
from llmpq_jax.stage.logit_adjustments import adjusted_logits
from llmpq_jax.stage.module import GroupCache, StageModule, last_hidden
from llmpq_jax.stage.sampling import (
    SamplingRows,
    choose_tokens,
    unpack_rows,
    with_logprobs,
)

# "extend" prefills one chunk of long prompts; "steps" runs several decode steps on a stage
# that is the whole model; "head" is the head alone.
Function = Literal["prefill", "extend", "decode", "steps", "head"]
# "hidden" is what the head alone is given; it and decode give "adjusted" and "adjusted_logprobs",
# the head alone "prompt_logprobs". "finite", which parts of a stage give finite values, is of every
# stage, others of the last one.
OutputKind = Literal[
    "tokens",
    "logprobs",
    "logits",
    "finite",
    "hidden",
    "adjusted",
    "adjusted_logprobs",
    "prompt_logprobs",
]

Merge = Callable[[list[jax.Array]], StageModule]
# Tokens of a prompt whose logits exist at the same time.
_PROMPT_BLOCK_TOKENS = 16


def _prompts_body(
    merge: Merge,
    output: OutputKind,
    leaves: list[jax.Array],
    inputs: jax.Array,
    caches: tuple[GroupCache, ...],
    start: jax.Array,
    rows: jax.Array,
) -> tuple[jax.Array, tuple[GroupCache, ...]]:
    """Runs prompts from row `start` on, or a chunk from [row, position] on."""
    first_row, first_position = start if start.ndim else (start, None)
    module = merge(leaves)
    seen: list[jax.Array] = []
    with jax.named_scope("prefill" if first_position is None else "extend"):
        hidden, caches = module.prefill(
            inputs, caches, first_row, first_position, on_hidden=seen.append
        )
        if output == "finite":
            end_B = rows[0] - (0 if first_position is None else first_position)
            return _are_finite(seen, end_B), caches
        if module.head is None:
            return module.to_wire(hidden), caches
        if output == "hidden":
            return hidden, caches
        if output == "logits":
            return module.head(hidden), caches
        length_B, sampling = unpack_rows(rows)
        assert sampling is not None
        end_B = length_B - (0 if first_position is None else first_position)
        logits = module.head(last_hidden(hidden, end_B))
        return _chosen(output, logits, sampling, length_B), caches


def _are_finite(hidden: list[jax.Array], end_B: jax.Array) -> jax.Array:
    """Returns whether each of some hidden states is finite, padding aside."""
    is_padding_BT1 = (
        jnp.arange(hidden[0].shape[1])[None, :, None] >= end_B[:, None, None]
    )
    return jnp.stack([jnp.all(jnp.isfinite(h) | is_padding_BT1) for h in hidden])


def _chosen(
    output: OutputKind,
    logits: jax.Array,
    sampling: SamplingRows,
    position_B: jax.Array,
    adjustments: jax.Array | None = None,
) -> jax.Array:
    """Returns each row's next token, packed with log-probabilities if these are asked.

    These are of the logits before adjustments (`pack_adjustments`).
    """
    if output == "tokens":
        return choose_tokens(logits, sampling, position_B)
    # The barrier keeps the logits bit-equal to those that tokens alone are chosen from.
    logits = jax.lax.optimization_barrier(logits)
    adjusted = logits if adjustments is None else adjusted_logits(logits, adjustments)
    token_B = choose_tokens(adjusted, sampling, position_B)
    return token_B if output == "adjusted" else with_logprobs(logits, token_B)


def _decode_body(
    merge: Merge,
    output: OutputKind,
    leaves: list[jax.Array],
    inputs: jax.Array,
    cache: GroupCache,
    rows: jax.Array,
    adjustments: jax.Array | None = None,
) -> tuple[jax.Array, GroupCache]:
    """Runs one token of each row; `adjustments` are of its logits (`pack_adjustments`)."""
    position_B, sampling = unpack_rows(rows)
    module = merge(leaves)
    with jax.named_scope("decode"):
        hidden, cache = module.decode(inputs, cache, position_B)
        if module.head is None:
            return module.to_wire(hidden), cache
        logits = module.head(hidden[:, 0])
        if output == "logits":
            return logits, cache
        assert sampling is not None
        return _chosen(output, logits, sampling, position_B + 1, adjustments), cache


def _steps_body(
    merge: Merge,
    output: OutputKind,
    leaves: list[jax.Array],
    inputs: jax.Array,
    cache: GroupCache,
    rows: jax.Array,
    num_steps: jax.Array,
) -> tuple[jax.Array, jax.Array, GroupCache]:
    last_slot = cache[0].num_slots - 1

    def step(number: jax.Array, state: Any) -> Any:
        tokens_TB, last_B, cache = state
        # The barrier ties the weights to the step: otherwise XLA converts them before the
        # loop, and keeps a float32 copy of all weights of other types.
        held, number = jax.lax.optimization_barrier((leaves, number))
        # A finished row writes to its last slot again, which is never read.
        here = rows.at[0].set(jnp.minimum(rows[0] + number, last_slot))
        next_B, cache = _decode_body(merge, output, held, last_B, cache, here)
        return tokens_TB.at[number].set(next_B), next_B, cache

    tokens_TB = jnp.zeros((MAX_STEPS_PER_CALL, inputs.shape[0]), jnp.int32)
    return jax.lax.fori_loop(0, num_steps, step, (tokens_TB, inputs, cache))


def _head_body(
    merge: Merge,
    output: OutputKind,
    leaves: list[jax.Array],
    hidden: jax.Array,
    caches: tuple[()],
    rows: jax.Array,
    extra: jax.Array,
) -> tuple[jax.Array, tuple[()]]:
    """Chooses each row's next token from hidden states of which it follows the last.

    What is `extra` are adjustments of logits (`pack_adjustments`). For "prompt_logprobs",
    which are of one row, the next token of each of its tokens comes before them.

    Returns:
        Tokens [B], or with log-probabilities, packed [B, N], which are of the logits before
        adjustments; below them those of the prompt's next tokens, [1 + T, N].
    """
    module = merge(leaves)
    assert module.head is not None
    num_tokens = hidden.shape[1]
    end_B, sampling = unpack_rows(rows[1:])
    assert sampling is not None
    target_T = None
    if output == "prompt_logprobs":
        target_T, extra = extra[0, :num_tokens], extra[:, num_tokens:]
    with jax.named_scope("head"):
        logits = module.head(last_hidden(hidden, rows[0]))
        chosen = _chosen(output, logits, sampling, end_B, extra)
        if target_T is None:
            return chosen, caches
        of_prompt = _prompt_logprobs(module.head, hidden[0], target_T)
        return jnp.concatenate([chosen, of_prompt]), caches


def _prompt_logprobs(
    head: Callable[[jax.Array], jax.Array], hidden_TD: jax.Array, target_T: jax.Array
) -> jax.Array:
    """Returns packed log-probabilities of the token after each of a prompt's."""

    def block(parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        return with_logprobs(head(parts[0]), parts[1])

    parts = (
        hidden_TD.reshape(-1, _PROMPT_BLOCK_TOKENS, hidden_TD.shape[-1]),
        target_T.reshape(-1, _PROMPT_BLOCK_TOKENS),
    )
    packed = jax.lax.map(block, parts)
    return packed.reshape(len(target_T), -1)


BODIES: dict[Function, Callable[..., Any]] = {
    "prefill": _prompts_body,
    "extend": _prompts_body,
    "decode": _decode_body,
    "steps": _steps_body,
    "head": _head_body,
}
