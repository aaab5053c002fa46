"""The family bloom: ALiBi positions, normalised embeddings, biases everywhere."""

from __future__ import annotations

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families._config import Config, head_width
from llmpq_jax.arch.families._family import Family


def _build(config: Config) -> Architecture:
    num_layers = config.integer("n_layer")
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("n_head")
    return Architecture(
        family="bloom",
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_width(config, hidden_size, num_heads),
        vocabulary_size=config.integer("vocab_size"),
        max_positions=config.integer("seq_length"),
        activation="gelu_tanh",
        is_gated=False,
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon"),
        has_embedding_norm=True,
        position="alibi",
        layer_windows=(None,) * num_layers,
        has_qkv_bias=True,
        has_output_bias=True,
        has_mlp_bias=True,
        embedding_size=hidden_size,
        ties_head=config.flag("tie_word_embeddings"),
    )


BLOOM = Family(
    model_type="bloom",
    defaults={
        "vocab_size": 250880,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        # ALiBi has no limit, so transformers has no such key; published files have this.
        "seq_length": 2048,
    },
    build=_build,
    aliases={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "n_embed": "hidden_size",
    },
    # Kernel fusions of Megatron, and the order in which the sums of its ranks are added.
    ignored_keys=frozenset(
        [
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "masked_softmax_fusion",
            "offset_alibi",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "slow_but_exact",
        ]
    ),
    fixed_values={"apply_residual_connection_post_layernorm": False},
)
