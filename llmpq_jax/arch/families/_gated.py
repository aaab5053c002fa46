"""The families llama, mistral, qwen2 and qwen3: RMS norms, rotary positions, gated MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families._family import Family
from llmpq_jax.arch.families._rope import ROPE_DEFAULTS, ROPE_FIXED_VALUES, read_rope
from llmpq_jax.arch.families.config import ACTIVATIONS, Config, head_width
from llmpq_jax.errors import SpecError

_SHARED: Mapping[str, object] = {
    **ROPE_DEFAULTS,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_SLIDING: Mapping[str, object] = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
# Transformers accepts the older spelling "attention" too.
_LAYER_TYPES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
}


def _build_llama(config: Config) -> Architecture:
    windows = (None,) * config.num_layers("num_hidden_layers")
    decoder = _with_attention_bias(_build(config, "llama", windows), config)
    return replace(decoder, has_mlp_bias=config.flag("mlp_bias"))


def _build_mistral(config: Config) -> Architecture:
    window = config.optional_integer("sliding_window")
    windows = (window,) * config.num_layers("num_hidden_layers")
    return _build(config, "mistral", windows)


def _build_qwen2(config: Config) -> Architecture:
    return replace(_build(config, "qwen2", _windows(config)), has_qkv_bias=True)


def _build_qwen3(config: Config) -> Architecture:
    decoder = _build(config, "qwen3", _windows(config))
    return replace(_with_attention_bias(decoder, config), has_qk_norm=True)


def _with_attention_bias(decoder: Architecture, config: Config) -> Architecture:
    has_bias = config.flag("attention_bias")
    return replace(decoder, has_qkv_bias=has_bias, has_output_bias=has_bias)


def _build(
    config: Config, family: str, windows: tuple[int | None, ...]
) -> Architecture:
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    head_dim = config.optional_integer("head_dim")
    return Architecture(
        family=family,
        num_layers=config.num_layers("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=config.optional_integer("num_key_value_heads") or num_heads,
        head_dim=head_dim or head_width(config, hidden_size, num_heads),
        vocabulary_size=config.integer("vocab_size"),
        max_positions=config.integer("max_position_embeddings"),
        activation=config.choice("hidden_act", ACTIVATIONS),
        is_gated=True,
        norm="rms",
        norm_eps=config.number("rms_norm_eps"),
        position="rope",
        rope=read_rope(config),
        layer_windows=windows,
        embedding_size=hidden_size,
        ties_head=config.flag("tie_word_embeddings"),
    )


def _windows(config: Config) -> tuple[int | None, ...]:
    """Returns the attention windows of Qwen's layers: by `layer_types`, else by index."""
    num_layers = config.num_layers("num_hidden_layers")
    window = config.optional_integer("sliding_window")
    if not config.flag("use_sliding_window"):
        window = None
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers")
        if isinstance(first, bool) or not isinstance(first, int):
            config.refuse("max_window_layers", first, "a whole number")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        config.refuse("layer_types", kinds, f"a list of {num_layers}, one per layer")
    entries = Config(
        path=config.path,
        values={str(layer): kind for layer, kind in enumerate(kinds)},
        inside="layer_types.",
    )
    read = [entries.choice(str(layer), _LAYER_TYPES) for layer in range(num_layers)]
    if "sliding" in read and window is None:
        msg = f"config {config.path}: layer_types has 'sliding_attention', but use_sliding_window or sliding_window turns windows off: expected both to be set"
        raise SpecError(msg)
    return tuple(window if kind == "sliding" else None for kind in read)


LLAMA = Family(
    model_type="llama",
    defaults={
        **_SHARED,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    build=_build_llama,
    # The first LLaMA conversions have it in addition to max_position_embeddings.
    ignored_keys=frozenset({"max_sequence_length"}),
    fixed_values=ROPE_FIXED_VALUES,
)
MISTRAL = Family(
    model_type="mistral",
    defaults={
        **_SHARED,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    build=_build_mistral,
    fixed_values=ROPE_FIXED_VALUES,
)
QWEN2 = Family(
    model_type="qwen2",
    defaults={
        **_SHARED,
        **_SLIDING,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    build=_build_qwen2,
    fixed_values=ROPE_FIXED_VALUES,
)
QWEN3 = Family(
    model_type="qwen3",
    defaults={**QWEN2.defaults, "head_dim": 128, "attention_bias": False},
    build=_build_qwen3,
    fixed_values=ROPE_FIXED_VALUES,
)
