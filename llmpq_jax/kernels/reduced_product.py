"""The product on GPUs below compute capability 8.0, in plain XLA.

There is no Triton there and no bfloat16: XLA writes every converted weight out before it
multiplies, in float32 if it meets bfloat16.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from llmpq_jax.kernels.groups import GroupArray, permuted, unpacked_groups

# XLA reads the packed weight once for every two rows; a float16 copy costs four bytes of
# each weight, written and read, besides.
MAX_REDUCED_ROWS = 8


def multiply_without_triton(
    hidden: Float[Array, "*rows C"], weight: GroupArray
) -> Float[Array, "*rows _F"]:
    """Returns hidden @ weight in `hidden`'s type, summed in float32."""
    *batch, num_contracted = hidden.shape
    rows = permuted(hidden, weight).reshape(-1, num_contracted)
    is_few = rows.shape[0] <= MAX_REDUCED_ROWS
    product = _reduced(rows, weight) if is_few else _dotted(rows, weight)
    return product.astype(hidden.dtype).reshape(*batch, weight.num_features)


def _reduced(rows: Float[Array, "M C"], weight: GroupArray) -> Float[Array, "M _F"]:
    """Multiplies and adds up element by element: XLA fuses it down to the packed bytes.

    Row by row, because all at once it would write the unpacked weight out. It joins
    neighbouring rows again, so that some share one reading.
    """
    parts = [part.astype(jnp.float32) for part in unpacked_groups(weight)]
    products = []
    for row in range(rows.shape[0]):
        wide = rows[row].astype(jnp.float32)
        wide = wide.reshape(weight.num_groups, len(parts), -1)
        terms = [wide[:, index, :, None] * part for index, part in enumerate(parts)]
        sums = jnp.sum(sum(terms[1:], terms[0]), axis=1)
        products.append(jnp.sum(sums * weight.scale, axis=0))
    return jnp.stack(products)


def _dotted(rows: Float[Array, "M C"], weight: GroupArray) -> Float[Array, "M _F"]:
    """Converts the weight and multiplies in float16, or for float32 rows in float32.

    float16 overflows where bfloat16 does not, so scales are taken relative to the
    feature's largest, and bfloat16 rows relative to a power of two; both are given back to
    the float32 sum. What float16 then cannot hold is below 2⁻³⁹ of a row's largest.
    """
    dtype = jnp.float32 if rows.dtype == jnp.float32 else jnp.float16
    largest_F = jnp.max(weight.scale, axis=0)
    relative = (weight.scale / largest_F[None])[:, None, :]
    parts = [part.astype(jnp.float32) * relative for part in unpacked_groups(weight)]
    matrix = jnp.concatenate(parts, axis=1).reshape(-1, weight.num_features)
    exponent = jnp.zeros((rows.shape[0], 1), jnp.int32)
    if rows.dtype == jnp.bfloat16:
        wide = rows.astype(jnp.float32)
        _, magnitude = jnp.frexp(jnp.max(jnp.abs(wide), axis=1, keepdims=True))
        exponent = magnitude - 15
        rows = jnp.ldexp(wide, -exponent)
    product = lax.dot_general(
        rows.astype(dtype),
        matrix.astype(dtype),
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return jnp.ldexp(product, exponent) * largest_F[None]
