"""Configurations of random models, one of each family."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture


def _llama_like(kind: str, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "architectures": [name],
        "vocab_size": 32_000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    } | changes


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _llama_like("llama", "LlamaForCausalLM"),
    "qwen2": _llama_like(
        "qwen2", "Qwen2ForCausalLM", hidden_size=896, intermediate_size=4864,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "qwen3": _llama_like(
        "qwen3", "Qwen3ForCausalLM", num_key_value_heads=8, head_dim=128
    ),
    "opt": {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": 50_272,
        "hidden_size": 1024,
        "ffn_dim": 4096,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 1024,
        "do_layer_norm_before": True,
        "activation_function": "relu",
    },
    "bloom": {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": 50_176,
        "hidden_size": 1024,
        "n_layer": 10,
        "n_head": 16,
        "layer_norm_epsilon": 1e-5,
    },
}  # fmt: skip


@cache
def architecture_of(family: str) -> Architecture:
    """Reads one of `CONFIGS`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[family]))
        return read_architecture(Path(folder))
