"""The grouped product as a Pallas kernel for Triton, from compute capability 8.0 on."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int8, Shaped

from llmpq_jax.kernels.blocks import Blocks, choose_blocks
from llmpq_jax.kernels.nibbles import unpack_groups


def multiply_with_pallas(
    rows: Float[Array, "M C"],
    values: Shaped[Array, "G _stored F"],
    scale: Float[Array, "G F"],
    zero_point: Int8[Array, "G F"] | None,
    *,
    bits: int,
) -> Float[Array, "M F"]:
    """Returns rows @ weight in the rows' type, summed in float32.

    The weight's arrays are those of `GroupArray`. Integers less their zero point are
    exact in each type of hidden states, so no weight is rounded: a group's scale
    multiplies its float32 sum. Without CUDA the kernel is interpreted, slowly but as
    exactly.
    """
    num_groups, stored_per_group, num_features = values.shape
    blocks = choose_blocks(
        num_rows=rows.shape[0],
        num_stored=num_groups * stored_per_group,
        num_features=num_features,
        stored_per_group=stored_per_group,
        itemsize=rows.dtype.itemsize,
    )
    operands = [rows, values, scale]
    if zero_point is not None:
        operands.append(zero_point)
    return jax.lax.platform_dependent(
        *operands,
        cuda=partial(_call, blocks=blocks, bits=bits, interpret=False),
        default=partial(_call, blocks=blocks, bits=bits, interpret=True),
    )


def _call(
    rows: Array,
    values: Array,
    scale: Array,
    *zero_point: Array,
    blocks: Blocks,
    bits: int,
    interpret: bool,
) -> Array:
    num_rows = rows.shape[0]
    num_groups, stored_per_group, num_features = values.shape
    has_one_split = blocks.num_splits == 1
    result = jax.ShapeDtypeStruct(
        (blocks.num_splits, num_rows, num_features),
        rows.dtype if has_one_split else jnp.float32,
    )
    product = pl.pallas_call(
        partial(
            _multiply_block,
            blocks=blocks,
            bits=bits,
            stored_per_group=stored_per_group,
            has_zero_point=bool(zero_point),
        ),
        result,
        # The first axis runs fastest: programs that read the same weights are neighbours.
        grid=(
            -(-num_rows // blocks.rows),
            -(-num_features // blocks.features),
            blocks.num_splits,
        ),
        interpret=interpret,
        compiler_params=triton.CompilerParams(
            num_warps=blocks.num_warps, num_stages=blocks.num_stages
        ),
        name="multiply_groups",
    )(rows, values.reshape(num_groups * stored_per_group, -1), scale, *zero_point)
    if has_one_split:
        return product[0]
    return jnp.sum(product, axis=0).astype(rows.dtype)


def _multiply_block(
    hidden_ref: Any,
    values_ref: Any,
    scale_ref: Any,
    *rest: Any,
    blocks: Blocks,
    bits: int,
    stored_per_group: int,
    has_zero_point: bool,
) -> None:
    """Computes one block of rows × features over one share of the contracted axis."""
    *zero_point_refs, product_ref = rest
    num_rows = hidden_ref.shape[0]
    num_stored, num_features = values_ref.shape
    split = pl.program_id(2)
    at_rows = pl.ds(pl.program_id(0) * blocks.rows, blocks.rows)
    at_features = pl.ds(pl.program_id(1) * blocks.features, blocks.features)
    is_row = (at_rows.start + jnp.arange(blocks.rows) < num_rows)[:, None]
    is_feature = (at_features.start + jnp.arange(blocks.features) < num_features)[None]
    steps_per_group = stored_per_group // blocks.stored_rows
    num_steps = num_stored // blocks.stored_rows // blocks.num_splits
    group_size = stored_per_group * 8 // bits
    dtype = hidden_ref.dtype
    # Otherwise Triton would multiply float32 as TF32.
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None

    def load(ref: Any, mask: Array) -> Array:
        return triton.load(ref, mask=mask, other=jnp.zeros((), ref.dtype))

    def step(number: Array, total: Array) -> Array:
        tile = split * num_steps + number
        group = tile // steps_per_group
        first = group * group_size + tile % steps_per_group * blocks.stored_rows
        stored = load(
            values_ref.at[
                pl.ds(tile * blocks.stored_rows, blocks.stored_rows), at_features
            ],
            is_feature,
        ).astype(jnp.int32)
        parts = unpack_groups(stored, bits=bits)
        at_group = pl.ds(group, 1)
        if has_zero_point:
            offset = load(zero_point_refs[0].at[at_group, at_features], is_feature)
            parts = [part - offset.astype(jnp.int32) for part in parts]
        product = jnp.zeros_like(total)
        for index, part in enumerate(parts):
            at_contracted = pl.ds(first + index * stored_per_group, blocks.stored_rows)
            product += triton.dot(
                load(hidden_ref.at[at_rows, at_contracted], is_row),
                part.astype(dtype),
                precision=precision,
            )
        return total + product * load(scale_ref.at[at_group, at_features], is_feature)

    total = jnp.zeros((blocks.rows, blocks.features), jnp.float32)
    total = jax.lax.fori_loop(0, num_steps, step, total)
    triton.store(
        product_ref.at[split, at_rows, at_features],
        total.astype(product_ref.dtype),
        mask=is_row & is_feature,
    )
