"""The decoder: an embedding, layers and a head, each usable alone on a stage.

Named scopes mark what profiles and compiled programs show of it: "embedding", "norm",
"qkv", "rope", "attention", "attention_output", "mlp" and "head".
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from llmpq_jax.arch.architecture import Activation, Architecture
from llmpq_jax.model.attention import attend, attend_and_store, store_and_attend
from llmpq_jax.model.blocks import over_tokens
from llmpq_jax.model.cache import LayerCache, PromptCache
from llmpq_jax.model.modules import Linear, Norm, Weights, images, plain
from llmpq_jax.model.positions import Context, alibi_slopes, rotate
from llmpq_jax.schema.precision import KvBits


class Embedding(nnx.Module):
    """Tokens to hidden states; part of the first stage."""

    def __init__(
        self, architecture: Architecture, weights: Weights, *, dtype: jnp.dtype
    ) -> None:
        self.tokens = nnx.Param(plain(weights, "tokens"))
        has_positions = architecture.position == "learned"
        self.positions = (
            nnx.Param(plain(weights, "positions")) if has_positions else None
        )
        self.position_offset = architecture.position_offset
        has_project_in = "project_in.weight" in weights
        self.project_in = Linear(weights, "project_in") if has_project_in else None
        has_norm = architecture.has_embedding_norm
        self.norm = Norm(weights, "norm", architecture) if has_norm else None
        self.dtype = dtype

    @jax.named_scope("embedding")
    def __call__(
        self, token_BT: Int[Array, "B T"], position_BT: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns the tokens' embeddings, learned positions included."""
        hidden = jnp.take(self.tokens.get_value(), token_BT, axis=0).astype(self.dtype)
        if self.project_in is not None:
            hidden = self.project_in(hidden)
        if self.positions is not None:
            table = self.positions.get_value()
            rows = position_BT + self.position_offset
            hidden = hidden + jnp.take(table, rows, axis=0, mode="clip").astype(
                self.dtype
            )
        return hidden if self.norm is None else self.norm(hidden)


class Attention(nnx.Module):
    """Attention with its projections; its heads may be cut over a mesh axis."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        *,
        window: int | None,
        kv_bits: KvBits,
        tensor_axis: str | None,
    ) -> None:
        self.query = Linear(weights, "attention.query")
        self.key = Linear(weights, "attention.key")
        self.value = Linear(weights, "attention.value")
        self.output = Linear(weights, "attention.output", sum_over=tensor_axis)
        has_norm = architecture.has_qk_norm
        self.query_norm = (
            Norm(weights, "attention.query_norm", architecture) if has_norm else None
        )
        self.key_norm = (
            Norm(weights, "attention.key_norm", architecture) if has_norm else None
        )
        self.head_dim = architecture.head_dim
        self.num_alibi_heads = (
            architecture.num_heads if architecture.position == "alibi" else 0
        )
        self.window = window
        self.kv_bits: KvBits = kv_bits
        self.tensor_axis = tensor_axis

    def project(
        self, hidden_BTD: Float[Array, "B T D"], context: Context
    ) -> tuple[Float[Array, "B T N H"], LayerCache]:
        """Returns the tokens' queries, and their keys and values."""
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        with jax.named_scope("qkv"):
            query, key, value = (
                image.reshape(heads)
                for image in images(hidden_BTD, (self.query, self.key, self.value))
            )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        with jax.named_scope("rope"):
            new = LayerCache(key=rotate(key, context), value=value)
            return rotate(query, context), new

    @jax.named_scope("attention")
    def mix(
        self,
        query_BTNH: Float[Array, "B T N H"],
        new: LayerCache,
        cache: LayerCache | None,
        context: Context,
    ) -> tuple[Float[Array, "B T N H"], LayerCache]:
        """Attends; returns the mixed values and the cache with the new tokens in it.

        Without a cache the new tokens attend to themselves, and are returned as one.
        """
        slopes = self._slopes(query_BTNH.shape[2])
        if cache is None:
            # Prompts attend to what their cache will hold, so that no token depends on
            # which of its predecessors are in the same call.
            memory = new.at(self.kv_bits)
            mixed = attend(
                query_BTNH, memory, context, window=self.window, slopes_N=slopes
            )
            return mixed, memory
        return attend_and_store(
            query_BTNH, new, cache, context, window=self.window, slopes_N=slopes
        )

    @jax.named_scope("attention")
    def mix_prompts(
        self,
        query_BTNH: Float[Array, "B T N H"],
        new: LayerCache,
        cache: PromptCache,
        context: Context,
    ) -> tuple[Float[Array, "B T N H"], PromptCache]:
        """Attends; returns the mixed values and the cache with the new tokens in it."""
        slopes = self._slopes(query_BTNH.shape[2])
        return store_and_attend(
            query_BTNH, new, cache, context, window=self.window, slopes_N=slopes
        )

    @jax.named_scope("attention_output")
    def finish(self, mixed_BTNH: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Returns the block's contribution, given the mixed values."""
        return self.output(mixed_BTNH.reshape(*mixed_BTNH.shape[:2], -1))

    def _slopes(self, num_heads: int) -> Array | None:
        """Returns ALiBi's slopes for the heads of this device."""
        if not self.num_alibi_heads:
            return None
        slopes = jnp.asarray(alibi_slopes(self.num_alibi_heads))
        if self.tensor_axis is None:
            return slopes
        first = jax.lax.axis_index(self.tensor_axis) * num_heads
        return jax.lax.dynamic_slice_in_dim(slopes, first, num_heads)


class Mlp(nnx.Module):
    """The feed-forward block, gated or not."""

    def __init__(
        self, architecture: Architecture, weights: Weights, *, tensor_axis: str | None
    ) -> None:
        self.gate = Linear(weights, "mlp.gate") if architecture.is_gated else None
        self.up = Linear(weights, "mlp.up")
        self.down = Linear(weights, "mlp.down", sum_over=tensor_axis)
        self.activation: Activation = architecture.activation

    @jax.named_scope("mlp")
    def __call__(self, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns the block's contribution."""
        if self.gate is None:
            return self.down(_activate(self.up(hidden_BTD), self.activation))
        gate, inner = images(hidden_BTD, (self.gate, self.up))
        return self.down(_activate(gate, self.activation) * inner)


class DecoderLayer(nnx.Module):
    """Attention and MLP, each inside a residual connection."""

    def __init__(
        self,
        architecture: Architecture,
        layer: int,
        weights: Weights,
        *,
        kv_bits: KvBits = 16,
        tensor_axis: str | None = None,
    ) -> None:
        """Builds a layer over its weights, keyed by `TensorSpec.name`.

        Prompts attend to keys and values of `kv_bits`. Heads are cut over the devices
        of a mesh axis, `tensor_axis`; None if they are on one device.
        """
        self.attention_norm = Norm(weights, "attention_norm", architecture)
        self.attention = Attention(
            architecture,
            weights,
            window=architecture.layer_windows[layer],
            kv_bits=kv_bits,
            tensor_axis=tensor_axis,
        )
        self.mlp_norm = Norm(weights, "mlp_norm", architecture)
        self.mlp = Mlp(architecture, weights, tensor_axis=tensor_axis)
        self.norms_after = architecture.norm_position == "after"

    def __call__(
        self,
        hidden_BTD: Float[Array, "B T D"],
        cache: LayerCache | None,
        context: Context,
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        """Applies the layer to a token of each row, or without a cache to prompts.

        Returns the hidden states that leave the layer, and the keys and values attended
        to: the cache with the new tokens in it, or without one the new tokens' own.
        """
        query, new = _before(self, hidden_BTD, context=context)
        mixed, memory = self.attention.mix(query, new, cache, context)
        return _after(self, hidden_BTD, mixed), memory

    def prefill(
        self,
        hidden_BTD: Float[Array, "B T D"],
        cache: PromptCache,
        context: Context,
    ) -> tuple[Float[Array, "B T D"], PromptCache]:
        """Applies the layer to prompts or chunks of them in blocks, as `__call__`."""
        query, new = over_tokens(
            partial(_before, kv_bits=cache.kv_bits),
            self,
            hidden_BTD,
            zero=cache.zero,
            context=context,
        )
        mixed, memory = self.attention.mix_prompts(query, new, cache, context)
        hidden_BTD = over_tokens(
            _after, self, hidden_BTD, mixed, zero=cache.zero, is_in_place=True
        )
        return hidden_BTD, memory


def _before(
    layer: DecoderLayer,
    hidden_BTD: Array,
    *,
    context: Context,
    kv_bits: KvBits = 16,
) -> tuple[Array, LayerCache]:
    """Computes queries, keys and values, each token by itself."""
    if not layer.norms_after:
        hidden_BTD = layer.attention_norm(hidden_BTD)
    query, new = layer.attention.project(hidden_BTD, context)
    return query, new.at(kv_bits)


def _after(layer: DecoderLayer, hidden_BTD: Array, mixed_BTNH: Array) -> Array:
    """Applies everything that follows attention, each token by itself."""
    hidden_BTD = hidden_BTD + layer.attention.finish(mixed_BTNH)
    if layer.norms_after:
        hidden_BTD = layer.attention_norm(hidden_BTD)
        return layer.mlp_norm(hidden_BTD + layer.mlp(hidden_BTD))
    return hidden_BTD + layer.mlp(layer.mlp_norm(hidden_BTD))


class Head(nnx.Module):
    """Hidden states to logits; part of the last stage."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        *,
        gather_over: str | None = None,
    ) -> None:
        """Builds the head over its weights (see `arch.tensors`).

        The vocabulary is cut over the devices of a mesh axis, `gather_over`; None if
        each device has all of it.
        """
        has_norm = architecture.has_final_norm
        self.norm = Norm(weights, "norm", architecture) if has_norm else None
        has_project_out = "project_out.weight" in weights
        self.project_out = Linear(weights, "project_out") if has_project_out else None
        self.vocabulary = Linear(weights, "vocabulary")
        self.gather_over = gather_over

    @jax.named_scope("head")
    def __call__(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Returns float32 logits."""
        if self.norm is not None:
            hidden = self.norm(hidden)
        if self.project_out is not None:
            hidden = self.project_out(hidden)
        logits = self.vocabulary(hidden).astype(jnp.float32)
        if self.gather_over is not None:
            axis = logits.ndim - 1
            logits = jax.lax.all_gather(logits, self.gather_over, axis=axis, tiled=True)
        return logits


def _activate(hidden: Array, activation: Activation) -> Array:
    if activation == "silu":
        return jax.nn.silu(hidden)
    if activation == "relu":
        return jax.nn.relu(hidden)
    return jax.nn.gelu(hidden, approximate=activation == "gelu_tanh")
