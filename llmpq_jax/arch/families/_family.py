"""The table of one family, and the keys that are ignored in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """How the config.json files of one `model_type` are read.

    Attributes:
        model_type: Name of the family in config.json.
        defaults: Keys that are used, with Hugging Face's defaults.
        build: Function that makes the architecture from a config.
        aliases: Other spellings of the keys that are used.
        ignored_keys: Keys of this family that do not change what is computed at inference.
        fixed_values: Keys of this family for which only one value is implemented, with
            this value.
    """

    model_type: str
    defaults: Mapping[str, object]
    build: Callable[[Config], Architecture]
    aliases: Mapping[str, str] = field(default_factory=dict)
    ignored_keys: frozenset[str] = frozenset()
    fixed_values: Mapping[str, object] = field(default_factory=dict)

    @property
    def known_keys(self) -> frozenset[str]:
        """Keys that may have any value, those of all families included."""
        return _COMMON_IGNORED_KEYS | self.ignored_keys | frozenset(self.defaults)

    @property
    def all_fixed_values(self) -> Mapping[str, object]:
        """Keys for which only one value is implemented, those of all families included."""
        return {**_COMMON_FIXED_VALUES, **self.fixed_values}


# Training, bookkeeping, special tokens, and generation defaults, which newer files have in
# generation_config.json.
_COMMON_IGNORED_KEYS = frozenset(
    [
        # Describes weights, not what is computed; `checkpoint.formats` reads it.
        "quantization_config",
        "model_type",
        "architectures",
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "_commit_hash",
        "dtype",
        "torch_dtype",
        "use_cache",
        "initializer_range",
        "attention_dropout",
        "hidden_dropout",
        "dropout",
        "activation_dropout",
        "layerdrop",
        "pretraining_tp",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "use_return_dict",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "sep_token_id",
        "cls_token_id",
        "decoder_start_token_id",
        "tokenizer_class",
        "prefix",
        "is_decoder",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "task_specific_params",
        "finetuning_task",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "unsloth_fixed",
        "unsloth_version",
        "max_length",
        "min_length",
        "max_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "num_return_sequences",
        "output_scores",
        "return_dict_in_generate",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
    ]
)

_COMMON_FIXED_VALUES: Mapping[str, object] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
    # Attributes that any config may have and that all models of transformers read.
    "is_causal": True,
    "per_layer_config": None,
}
