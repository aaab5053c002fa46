"""GPTQ: rows are rounded one by one, and later rows compensate for earlier errors.

After row c is rounded with the error e = (w_c − ŵ_c) / U_cc, each later row j is moved by
−U_cj · e, where UᵀU is the inverse of the inputs' moments (Frantar et al., GPTQ, arXiv
2210.17323, equations 2, 3 and section 3.3); this minimises what is left of Δwᵀx. Rows are
rounded in the order of their inputs' mean squares, the largest first. Groups keep their
rows, and scales are chosen before, so that the result is served like any other weight.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

# Rows that are rounded before all rows after them are moved at once.
_BLOCK = 128
# Added to the diagonal, as a share of its mean: the inverse of moments of few tokens
# would be noise. If one is not enough, the next is tried.
_DAMPINGS = (0.01, 0.1, 1.0)


def compensated(
    weight_CF: Float[Array, "C F"],
    scale_GF: Float[Array, "G F"],
    moment_CC: Float[Array, "C C"],
    *,
    largest: int,
) -> Int8[Array, "C F"]:
    """Returns integers, at most `largest` in magnitude, for given scales of groups.

    The moment is E[x·xᵀ] of the inputs, the weight in float32.

    Raises:
        ValueError: The moments are not finite.
    """
    for damping in _DAMPINGS:
        order_C = jnp.argsort(-jnp.diagonal(moment_CC))
        factor_CC = _inverse_factor(
            moment_CC[order_C][:, order_C], jnp.float32(damping)
        )
        if bool(jnp.isfinite(factor_CC).all()):
            return _rounded_in_order(
                weight_CF, scale_GF, order_C, factor_CC, largest=largest
            )
    msg = "the moments of a weight's inputs are not finite: expected finite hidden states on the calibration text"
    raise ValueError(msg)


@jax.jit
def _inverse_factor(moment_CC: jax.Array, damping: jax.Array) -> jax.Array:
    """Returns the upper triangular U with UᵀU = (moments + damping)⁻¹."""
    diagonal = jnp.diagonal(moment_CC)
    # An input that is always 0 gives no information on its row.
    mean = jnp.maximum(jnp.mean(diagonal), jnp.finfo(jnp.float32).tiny)
    padded = moment_CC + jnp.diag(jnp.where(diagonal == 0, mean, 0.0) + damping * mean)
    # With R upper triangular and R·Rᵀ = H the inverse is R⁻ᵀ·R⁻¹, so that U = R⁻¹;
    # R is the Cholesky factor of H turned upside down.
    upper = jnp.linalg.cholesky(padded[::-1, ::-1])[::-1, ::-1]
    identity = jnp.eye(len(upper), dtype=upper.dtype)
    return jax.scipy.linalg.solve_triangular(upper, identity, lower=False)


@partial(jax.jit, static_argnames=("largest",))
def _rounded_in_order(
    weight_CF: jax.Array,
    scale_GF: jax.Array,
    order_C: jax.Array,
    factor_CC: jax.Array,
    *,
    largest: int,
) -> jax.Array:
    num_rows = weight_CF.shape[0]
    padding = -num_rows % _BLOCK
    scale_CF = jnp.repeat(scale_GF, num_rows // scale_GF.shape[0], axis=0)[order_C]
    rows = jnp.pad(weight_CF[order_C], ((0, padding), (0, 0)))
    scales = jnp.pad(scale_CF, ((0, padding), (0, 0)), constant_values=1.0)
    factor = jnp.pad(factor_CC, ((0, padding), (0, padding)))
    ends = jnp.arange(num_rows + padding) >= num_rows
    factor = factor + jnp.diag(ends.astype(factor.dtype))
    column = jnp.arange(num_rows + padding)

    def round_block(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, integers = state
        start = number * _BLOCK
        block = jax.lax.dynamic_slice_in_dim(rows, start, _BLOCK)
        steps = jax.lax.dynamic_slice_in_dim(scales, start, _BLOCK)
        panel = jax.lax.dynamic_slice_in_dim(factor, start, _BLOCK)
        within = jax.lax.dynamic_slice_in_dim(panel, start, _BLOCK, axis=1)

        def round_row(index: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            block, rounded, errors = state
            integer = jnp.clip(
                jnp.round(block[index] / steps[index]), -largest, largest
            )
            error = (block[index] - integer * steps[index]) / within[index, index]
            later = jnp.where(jnp.arange(_BLOCK) > index, within[index], 0.0)
            block = block - later[:, None] * error[None, :]
            return block, rounded.at[index].set(integer), errors.at[index].set(error)

        empty = jnp.zeros_like(block)
        _, rounded, errors = jax.lax.fori_loop(
            0, _BLOCK, round_row, (block, empty, empty)
        )
        later_rows = jnp.where(column[None, :] >= start + _BLOCK, panel, 0.0)
        rows = rows - later_rows.T @ errors
        integers = jax.lax.dynamic_update_slice_in_dim(integers, rounded, start, axis=0)
        return rows, integers

    num_blocks = (num_rows + padding) // _BLOCK
    _, integers = jax.lax.fori_loop(
        0, num_blocks, round_block, (rows, jnp.zeros_like(rows))
    )
    return integers[:num_rows][jnp.argsort(order_C)].astype(jnp.int8)
