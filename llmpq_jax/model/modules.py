"""The small modules of a layer: linear maps and norms, over weights found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.kernels import Weight, multiply, multiply_together

Weights: TypeAlias = Mapping[str, Weight]


class Linear(nnx.Module):
    """hidden @ weight + bias, for a weight of any precision."""

    def __init__(
        self, weights: Weights, name: str, *, sum_over: str | None = None
    ) -> None:
        """Selects a map's weights from a layer's, by the prefix of their names.

        If the contracted axis is cut over the devices of a mesh axis, partial products
        are summed over it, `sum_over`, before the bias is added once.
        """
        self.weight = nnx.Param(weights[f"{name}.weight"])
        self.bias = _bias(weights, name)
        self.sum_over = sum_over

    def __call__(self, hidden: Float[Array, "*rows C"]) -> Float[Array, "*rows F"]:
        """Returns the image, in `hidden`'s type."""
        return self.finished(multiply(hidden, self.weight.get_value()))

    def finished(self, product: Float[Array, "*rows F"]) -> Float[Array, "*rows F"]:
        """Returns the image, given hidden @ weight on this device."""
        if self.sum_over is not None:
            product = jax.lax.psum(product, self.sum_over)
        if self.bias is not None:
            bias = self.bias.get_value().astype(product.dtype)
            product = product + along_last_axis(bias, product)
        return product


def images(
    hidden: Float[Array, "*rows C"], maps: Sequence[Linear]
) -> tuple[Float[Array, "*rows _F"], ...]:
    """Returns the images of the same hidden states under several linear maps."""
    products = multiply_together(hidden, [each.weight.get_value() for each in maps])
    return tuple(
        each.finished(product) for each, product in zip(maps, products, strict=True)
    )


class Norm(nnx.Module):
    """Root-mean-square or layer norm over the last axis, in float32."""

    def __init__(self, weights: Weights, name: str, architecture: Architecture) -> None:
        self.weight = nnx.Param(plain(weights, f"{name}.weight"))
        self.bias = _bias(weights, name)
        self.epsilon = architecture.norm_eps
        self.is_centred = architecture.norm == "layer"

    @jax.named_scope("norm")
    def __call__(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Returns the normed hidden states in their own type."""
        wide = hidden.astype(jnp.float32)
        if self.is_centred:
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        weight = self.weight.get_value().astype(jnp.float32)
        normed = normed * along_last_axis(weight, normed)
        if self.bias is not None:
            bias = self.bias.get_value().astype(jnp.float32)
            normed = normed + along_last_axis(bias, normed)
        return normed.astype(hidden.dtype)


def plain(weights: Weights, name: str) -> jax.Array:
    """Returns a weight that is never quantised: a vector or a table."""
    weight = weights[name]
    assert isinstance(weight, jax.Array), name
    return weight


def _bias(weights: Weights, name: str) -> nnx.Param[jax.Array] | None:
    has_bias = f"{name}.bias" in weights
    return nnx.Param(plain(weights, f"{name}.bias")) if has_bias else None


def along_last_axis(vector_F: Array, like: Array) -> Array:
    """Reshapes a vector to the rank of an array, along that array's last axis."""
    return vector_F.reshape((1,) * (like.ndim - 1) + vector_F.shape)
