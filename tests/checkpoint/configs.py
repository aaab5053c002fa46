"""Small configs, one for each way a family's tensors can be named and shaped."""

from __future__ import annotations

from typing import Any

_GATED: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "vocab_size": 26,
}
_OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 24,
    "ffn_dim": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "vocab_size": 26,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _GATED | {"model_type": "llama"},
    "llama-biases": _GATED
    | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 10},
    "mistral": _GATED | {"model_type": "mistral", "tie_word_embeddings": True},
    "qwen2": _GATED | {"model_type": "qwen2"},
    "qwen3": _GATED | {"model_type": "qwen3", "head_dim": 8},
    "opt": _OPT,
    "opt-350m": _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 12},
    "opt-untied": _OPT | {"tie_word_embeddings": False, "enable_bias": False},
    "bloom": {
        "model_type": "bloom",
        "n_embed": 24,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 26,
    },
}
