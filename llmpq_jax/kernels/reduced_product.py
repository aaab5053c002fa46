"""The product on GPUs below compute capability 8.0, in plain XLA.

They have neither Triton nor bfloat16: XLA writes every converted weight out before it
multiplies, in float32 if an operand is bfloat16.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8, Shaped

from llmpq_jax.kernels.nibbles import unpack_groups

# XLA reads the packed weight once for every two rows; a float16 copy costs four further
# bytes of each weight, written and read.
MAX_REDUCED_ROWS = 8


def multiply_without_triton(
    rows: Float[Array, "M C"],
    values: Shaped[Array, "G _stored F"],
    scale: Float[Array, "G F"],
    zero_point: Int8[Array, "G F"] | None,
    *,
    bits: int,
) -> Float[Array, "M F"]:
    """Returns rows @ weight, given as `GroupArray` has it, summed in float32."""
    parts = unpack_groups(values.astype(jnp.int32), bits=bits)
    if zero_point is not None:
        offset = zero_point[:, None, :].astype(jnp.int32)
        parts = [part - offset for part in parts]
    multiply = _reduced if rows.shape[0] <= MAX_REDUCED_ROWS else _dotted
    return multiply(rows, parts, scale).astype(rows.dtype)


def _reduced(
    rows: Float[Array, "M C"], parts: list[Array], scale: Float[Array, "G F"]
) -> Float[Array, "M F"]:
    """Multiplies and adds up element by element: XLA fuses it down to the packed bytes.

    Row by row, because all at once it would write the unpacked weight out. It joins
    neighbouring rows again, so that some share one reading.
    """
    parts = [part.astype(jnp.float32) for part in parts]
    products = []
    for row in range(rows.shape[0]):
        wide = rows[row].astype(jnp.float32)
        wide = wide.reshape(scale.shape[0], len(parts), -1)
        terms = [wide[:, index, :, None] * part for index, part in enumerate(parts)]
        sums = jnp.sum(sum(terms[1:], terms[0]), axis=1)
        products.append(jnp.sum(sums * scale, axis=0))
    return jnp.stack(products)


def _dotted(
    rows: Float[Array, "M C"], parts: list[Array], scale: Float[Array, "G F"]
) -> Float[Array, "M F"]:
    """Converts the weight and multiplies in float16, or for float32 rows in float32.

    float16 overflows where bfloat16 does not, so scales are taken relative to the
    feature's largest, and bfloat16 rows relative to a power of two; the float32 sum is
    multiplied by both. What float16 then cannot hold is below 2⁻³⁹ of a row's largest.
    """
    dtype = jnp.float32 if rows.dtype == jnp.float32 else jnp.float16
    largest_F = jnp.max(scale, axis=0)
    relative = (scale / largest_F[None])[:, None, :]
    parts = [part.astype(jnp.float32) * relative for part in parts]
    matrix = jnp.concatenate(parts, axis=1).reshape(-1, scale.shape[1])
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
