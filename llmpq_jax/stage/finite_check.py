"""Finds the part of a stage whose results are the first that are not finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.stage.activation_codec import unpack_hidden
from llmpq_jax.stage.compiled import StageProgram
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.module import GroupCache
from llmpq_jax.stage.sampling import NOT_FINITE


def first_not_finite(
    program: StageProgram,
    message: Message,
    result: jax.Array,
    caches: tuple[GroupCache, ...],
) -> tuple[int | None, tuple[GroupCache, ...]]:
    """Returns the index of that part (`NotFinite`), or None; and the caches.

    The parts are computed again, with the prompt's caches, which are donated.

    Args:
        program: Program of the stage.
        message: Prefill of one row that the stage has done.
        result: Result of the stage.
        caches: Caches of the groups that have the row.
    """
    if not program.has_head and _is_hidden_finite(program, message, result):
        return None, caches
    flags, caches = program.prefill(
        message.payload,
        caches,
        message.first_row,
        message.slot_B,
        message.sampling,
        first_position=message.first_position,
        output="finite",
    )
    are_finite = np.asarray(flags)
    if not are_finite.all():
        return int(are_finite.argmin()), caches
    has_token = program.has_head and message.ends_prompt(0)
    if has_token and int(np.asarray(result)[0]) == NOT_FINITE:
        return len(are_finite), caches
    return None, caches


def _is_hidden_finite(
    program: StageProgram, message: Message, result: jax.Array
) -> bool:
    """Whether the hidden states of a prompt are finite, padding aside."""
    hidden = unpack_hidden(result, program.architecture.hidden_size, program.dtype)
    num_tokens = int(message.slot_B[0]) - (message.first_position or 0)
    return bool(jnp.isfinite(hidden[:, : max(0, num_tokens)]).all())
