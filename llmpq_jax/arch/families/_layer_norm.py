"""The families opt and bloom: layer norms, plain MLPs, learned or ALiBi positions."""

from __future__ import annotations

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families._family import Family
from llmpq_jax.arch.families.config import ACTIVATIONS, Config, head_width


def _build_opt(config: Config) -> Architecture:
    num_layers = config.num_layers("num_hidden_layers")
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    has_bias = config.flag("enable_bias")
    norms_before = config.flag("do_layer_norm_before")
    removes_final_norm = config.flag("_remove_final_layer_norm")
    return Architecture(
        family="opt",
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=config.integer("ffn_dim"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_width(config, hidden_size, num_heads),
        vocabulary_size=config.integer("vocab_size"),
        max_positions=config.integer("max_position_embeddings"),
        activation=config.choice("activation_function", ACTIVATIONS),
        is_gated=False,
        norm="layer",
        norm_eps=1e-5,  # PyTorch's default; the config cannot change it.
        norm_position="before" if norms_before else "after",
        has_final_norm=norms_before and not removes_final_norm,
        position="learned",
        position_offset=2,
        layer_windows=(None,) * num_layers,
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        has_mlp_bias=has_bias,
        embedding_size=config.optional_integer("word_embed_proj_dim") or hidden_size,
        ties_head=config.flag("tie_word_embeddings"),
    )


OPT = Family(
    model_type="opt",
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "num_attention_heads": 12,
        "activation_function": "relu",
        "enable_bias": True,
        "tie_word_embeddings": True,
    },
    build=_build_opt,
    ignored_keys=frozenset({"init_std"}),
    fixed_values={"layer_norm_elementwise_affine": True, "learned_embeddings": True},
)


def _build_bloom(config: Config) -> Architecture:
    num_layers = config.num_layers("n_layer")
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
    build=_build_bloom,
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
