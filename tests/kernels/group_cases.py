"""Random weights in groups, as checkpoints have them, and bounds of their products."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.kernels import Weight, multiply
from llmpq_jax.quant import QArray
from tests.kernels.native_cases import UNIT
from tests.referees.quantized_product import reference_product, reference_weight

_FURTHER_ROUNDINGS = 8


def fake_gpu(capability: str) -> Any:
    """A device as JAX shows an NVIDIA GPU's."""
    return SimpleNamespace(platform="gpu", compute_capability=capability)


def draw_weight(
    generator: np.random.Generator,
    *,
    num_groups: int,
    group_size: int,
    num_features: int,
    bits: Literal[4, 8],
    has_zero_point: bool = False,
    has_permutation: bool = False,
) -> QArray:
    """Draws every integer of the type, the most negative included."""
    num_contracted = num_groups * group_size
    if bits == 8:
        values = generator.integers(-128, 128, (num_contracted, num_features), np.int8)
    else:
        shape = (num_contracted, num_features // 2)
        values = generator.integers(0, 256, shape, np.uint8)
    scales = (num_groups, num_features)
    lowest = -(2 ** (bits - 1))
    zero_point = generator.integers(lowest, -lowest, scales, np.int8)
    order = generator.permutation(num_contracted).astype(np.int32)
    return QArray(
        values=jnp.asarray(values),
        scale=jnp.asarray(generator.uniform(0.01, 0.1, scales).astype(np.float32)),
        bits=bits,
        zero_point=jnp.asarray(zero_point) if has_zero_point else None,
        permutation=jnp.asarray(order) if has_permutation else None,
    )


def check_product(found: Any, hidden: Any, weight: QArray) -> None:
    """Compares a product whose weights are not rounded with float64.

    Each of C additions rounds once (Higham, Accuracy and Stability, 3.1), and so do the
    product, the scale and the sum of splits; the result is rounded to its own type.
    """
    wide = np.asarray(hidden, np.float64)
    expected = reference_product(wide, weight)
    magnitude = np.abs(wide) @ np.abs(reference_weight(weight))
    num_roundings = weight.num_contracted + _FURTHER_ROUNDINGS
    bound = num_roundings * UNIT["float32"] * magnitude
    bound += UNIT[str(hidden.dtype)] * (np.abs(expected) + bound) + 1e-30
    assert found.dtype == hidden.dtype
    assert found.shape == expected.shape
    assert (np.abs(np.asarray(found, np.float64) - expected) <= bound).all()


def lowered_for_cuda(hidden: jax.Array, weight: Weight) -> str:
    """Returns the program of a product as it would go to XLA on a machine with a GPU."""
    leaves, tree = jax.tree.flatten(weight)

    def product(hidden: jax.Array, leaves: list[jax.Array]) -> jax.Array:
        return multiply(hidden, jax.tree.unflatten(tree, leaves))

    traced = jax.jit(product).trace(hidden, leaves)
    return traced.lower(lowering_platforms=("cuda",)).as_text()
