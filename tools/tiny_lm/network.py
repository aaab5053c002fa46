"""The tiny model as a training graph: float32, dense, one causal pass.

The served model is `llmpq_jax.model`; this one exists to be differentiated. The two
are compared on the exported checkpoint, so that each tests the other.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}

Params = dict[str, Any]


def init_params(key: jax.Array) -> Params:
    """Returns random initial weights; matrices are [in, out]."""
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    heads, kv_heads = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    head, layers = CONFIG["head_dim"], CONFIG["num_hidden_layers"]
    shapes = {
        "q_proj": (width, heads * head),
        "k_proj": (width, kv_heads * head),
        "v_proj": (width, kv_heads * head),
        "o_proj": (heads * head, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }
    embed_key, head_key, *layer_keys = jax.random.split(key, layers + 2)

    def layer(key: jax.Array) -> Params:
        keys = jax.random.split(key, len(shapes))
        matrices = {
            name: jax.random.normal(k, shape) / math.sqrt(shape[0])
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        # Residual branches start small, so that the stack starts near the identity.
        for name in ("o_proj", "down_proj"):
            matrices[name] *= 1 / math.sqrt(2 * layers)
        norms = {"input_norm": jnp.ones(width), "mlp_norm": jnp.ones(width)}
        return matrices | norms

    vocabulary = CONFIG["vocab_size"]
    return {
        "embed": 0.02 * jax.random.normal(embed_key, (vocabulary, width)),
        "layers": [layer(key) for key in layer_keys],
        "norm": jnp.ones(width),
        "head": 0.02 * jax.random.normal(head_key, (width, vocabulary)),
    }


def forward(params: Params, tokens_BT: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V]."""
    x = params["embed"][tokens_BT]
    cos, sin = _rope_tables(tokens_BT.shape[1])
    for layer in params["layers"]:
        x = x + _attention(layer, _rms_norm(x, layer["input_norm"]), cos, sin)
        h = _rms_norm(x, layer["mlp_norm"])
        gated = jax.nn.silu(h @ layer["gate_proj"]) * (h @ layer["up_proj"])
        x = x + gated @ layer["down_proj"]
    return _rms_norm(x, params["norm"]) @ params["head"]


def token_losses(params: Params, tokens_BT: jax.Array) -> jax.Array:
    """Returns −log p of each token but the first, in nats: [B, T−1]."""
    logits = forward(params, tokens_BT[:, :-1])
    chosen = jnp.take_along_axis(logits, tokens_BT[:, 1:, None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def _rms_norm(x: jax.Array, weight: jax.Array) -> jax.Array:
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + CONFIG["rms_norm_eps"]) * weight


def _rope_tables(length: int) -> tuple[jax.Array, jax.Array]:
    head = CONFIG["head_dim"]
    rates = CONFIG["rope_theta"] ** (-jnp.arange(0, head, 2) / head)
    angles = jnp.arange(length)[:, None] * rates
    return jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )


def _attention(
    layer: Params, x: jax.Array, cos: jax.Array, sin: jax.Array
) -> jax.Array:
    batch, length, _ = x.shape
    head, kv_heads = CONFIG["head_dim"], CONFIG["num_key_value_heads"]

    def heads(name: str) -> jax.Array:
        return (x @ layer[name]).reshape(batch, length, -1, head)

    # Query heads that share a key head are concatenated along time, so that XLA sees few
    # large matrix products instead of many small ones.
    grouped = (batch, kv_heads, -1, head)
    query = _rotate(heads("q_proj"), cos, sin).transpose(0, 2, 1, 3).reshape(grouped)
    key = _rotate(heads("k_proj"), cos, sin).transpose(0, 2, 1, 3)
    value = heads("v_proj").transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkth,bksh->bkts", query, key) / math.sqrt(head)
    is_future = jnp.triu(jnp.ones((length, length), bool), 1)
    blocked = scores.reshape(batch, kv_heads, -1, length, length)
    weights = jax.nn.softmax(blocked + jnp.where(is_future, -1e30, 0.0), axis=-1)
    mixed = jnp.einsum("bkts,bksh->bkth", weights.reshape(scores.shape), value)
    mixed = mixed.reshape(batch, -1, length, head).transpose(0, 2, 1, 3)
    return mixed.reshape(batch, length, -1) @ layer["o_proj"]
