"""Cuts a quantised weight for a tensor-parallel stage without changing its integers."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import jax.numpy as jnp

from llmpq_jax.quant.qarray import QArray


def with_groups_cut(weight: QArray, width: int) -> QArray:
    """Repeats scales until `width` equal ranges of rows hold whole groups.

    The shards then hold the integers and scales of the whole weight; only scales that
    two shards need are stored twice.

    Raises:
        ValueError: The rows do not divide by `width`, or are permuted.
    """
    if weight.num_contracted % width:
        msg = f"{weight.num_contracted} rows cannot be cut into {width}: expected a divisor"
        raise ValueError(msg)
    if weight.permutation is not None:
        msg = "rows in a permuted order cannot be cut: expected a weight without act-order"
        raise ValueError(msg)
    rows = weight.num_contracted // width
    repeats = weight.group_size // gcd(weight.group_size, rows)
    if repeats == 1 and weight.num_groups % width == 0:
        return weight
    zero_point = weight.zero_point
    if zero_point is not None:
        zero_point = jnp.repeat(zero_point, repeats, axis=0)
    return replace(
        weight, scale=jnp.repeat(weight.scale, repeats, axis=0), zero_point=zero_point
    )
