"""Random cases for the native kernels, and slow obvious answers to them in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.kernels.native_attention import attend_to_cache
from llmpq_jax.kernels.panels import multiply_panels, to_panels
from llmpq_jax.model import LayerCache
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.schema.precision import KvBits
from tests.referees.quantized_product import reference_weight

UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def check_product(
    *, num_rows: int, num_contracted: int, features: list[int], bits, dtype: str, seed
) -> None:
    """Multiplies with several weights in one call and compares each with float64."""
    generator = np.random.default_rng(seed)
    hidden = jnp.asarray(
        generator.standard_normal((num_rows, num_contracted), np.float32), dtype
    )
    drawn = [
        jnp.asarray(generator.standard_normal((num_contracted, count), np.float32))
        for count in features
    ]
    weights = [
        weight.astype(jnp.bfloat16)
        if bits == 16
        else quantize(weight, bits=bits, group_size=32)
        for weight in drawn
    ]
    products = jax.jit(multiply_panels)(hidden, [to_panels(w) for w in weights])
    wide = np.asarray(hidden, np.float64)
    for weight, product in zip(weights, products, strict=True):
        assert product.dtype == hidden.dtype
        if isinstance(weight, QArray):
            exact = reference_weight(weight)
        else:
            exact = np.asarray(weight, np.float64)
        expected = wide @ exact
        magnitude = np.abs(wide) @ np.abs(exact)
        if isinstance(weight, QArray) and bits == 4:
            # Values are stored as value + 8 and the 8 taken off the sum.
            steps = np.repeat(np.asarray(weight.scale), weight.group_size, axis=0)
            magnitude = magnitude + 16 * np.abs(wide) @ steps.astype(np.float64)
        # Higham, Accuracy and Stability, 3.1: each of C additions rounds once.
        bound = (num_contracted + 8) * UNIT["float32"] * magnitude
        bound += UNIT[dtype] * (np.abs(expected) + bound) + 1e-30
        assert (np.abs(np.asarray(product, np.float64) - expected) <= bound).all()


def check_attention(
    *,
    num_rows: int,
    num_slots: int,
    num_kv_heads: int,
    shared: int,
    head_dim: int,
    window: int | None,
    has_slopes: bool,
    dtype: str,
    seed: int,
    kv_bits: KvBits = 16,
) -> None:
    """Attends once and compares mix and caches with float64."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(generator.standard_normal(shape, np.float32), dtype)

    num_heads = num_kv_heads * shared
    query = 3 * draw(num_rows, num_heads, head_dim)
    key, value = (draw(num_rows, num_kv_heads, head_dim) for _ in range(2))
    keys, values = (draw(num_rows, num_slots, num_kv_heads, head_dim) for _ in range(2))
    cache = LayerCache(key=keys, value=values).at(kv_bits)
    position = generator.integers(0, num_slots, num_rows).astype(np.int32)
    slopes = generator.random(num_heads, np.float32) if has_slopes else None
    mixed, blocks = jax.jit(attend_to_cache, static_argnames="window")(
        *(query, key, value, tuple(cache), jnp.asarray(position)),
        window=window,
        slopes_N=None if slopes is None else jnp.asarray(slopes),
    )
    new = LayerCache(key=key[:, None], value=value[:, None])
    stored = cache.with_tokens(new, jnp.asarray(position))
    for found, block in zip(blocks, stored, strict=True):
        assert (found is None) == (block is None)
        if block is not None:
            assert found.dtype == block.dtype
            assert (np.asarray(found) == np.asarray(block)).all()
    expected_keys = _as_numbers(stored.key, stored.key_scale)
    expected_values = _as_numbers(stored.value, stored.value_scale)
    for row in range(num_rows):
        end = position[row] + 1
        start = 0 if window is None else max(0, end - window)
        for head in range(num_heads):
            heads_keys = expected_keys[row, start:end, head // shared]
            scores = (
                heads_keys
                @ np.asarray(query[row, head], np.float64)
                / np.sqrt(head_dim)
            )
            if slopes is not None:
                scores = scores + slopes[head] * (np.arange(start, end) - position[row])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            seen = expected_values[row, start:end, head // shared]
            expected = weights @ seen
            # A score's rounding multiplies its weight by as much, so the mix moves by at
            # most that share of what it mixes; exp and division add a few units.
            largest = np.abs(scores).max() * head_dim + end + 16
            bound = 8 * largest * UNIT["float32"] * np.abs(seen).max()
            bound += UNIT[dtype] * (np.abs(expected) + bound)
            error = np.abs(np.asarray(mixed[row, head], np.float64) - expected)
            assert (error <= bound).all()


def _as_numbers(block: jax.Array, scale: jax.Array | None) -> np.ndarray:
    numbers = np.asarray(block, np.float64)
    return numbers if scale is None else numbers * np.asarray(scale, np.float64)
