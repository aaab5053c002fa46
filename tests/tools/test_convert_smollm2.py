from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from safetensors import safe_open

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from tools.convert_smollm2 import (
    find_gguf,
    hugging_face_name,
    in_halves,
    tokenizer,
    write_checkpoint,
)

TINY = Path(__file__).parents[2] / "examples/tiny-code-lm"
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOKENS = ["<|end|>", "<|start|>", "a", "1", "2", "Ġ", "b", "Ġa", "ab", "12", ".", "Ċ"]


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    with safe_open(folder / "model.safetensors", framework="flax") as file:
        return {
            name: np.asarray(file.get_tensor(name), np.float32)
            for name in file.keys()  # noqa: SIM118
        }


def in_pairs(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows as llama.cpp rotates them: one of the first half, its partner, and so on."""
    first, second = np.split(values.reshape(num_heads, -1, values.shape[-1]), 2, axis=1)
    rows = [
        row
        for head in range(num_heads)
        for pair in zip(first[head], second[head], strict=True)
        for row in pair
    ]
    return np.stack(rows)


def as_gguf(name: str, values: np.ndarray, config: dict) -> tuple[str, np.ndarray]:
    stem = name.removesuffix(".weight")
    if stem.endswith("q_proj"):
        values = in_pairs(values, config["num_attention_heads"])
    if stem.endswith("k_proj"):
        values = in_pairs(values, config["num_key_value_heads"])
    if not stem.startswith("model.layers."):
        return f"{GGUF_NAMES[stem]}.weight", values
    index, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{index}.{GGUF_NAMES[part]}.weight", values


def fields_of(config: dict) -> dict:
    num_fillers = config["vocab_size"] - len(TOKENS)
    return {
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": float(
            np.float32(config["rms_norm_eps"])
        ),
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": config["rope_theta"],
        "tokenizer.chat_template": "{{ messages[0]['content'] }}<|end|>",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.merges": ["a b", "Ġ a", "1 2"],
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (config["vocab_size"] - 2),
        "tokenizer.ggml.tokens": TOKENS + [f"filler-{i}" for i in range(num_fillers)],
    }


@pytest.mark.parametrize("num_heads", [1, 3, 9])
def test_rows_of_query_and_key_are_put_back_in_halves(num_heads):
    values = np.arange(num_heads * 8 * 5, dtype=np.float32).reshape(num_heads * 8, 5)
    np.testing.assert_array_equal(
        in_halves(in_pairs(values, num_heads), num_heads), values
    )


def test_a_model_that_went_through_gguf_s_form_has_its_weights_and_architecture(
    tmp_path,
):
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    weights = tensors_of(TINY)
    there = [as_gguf(name, values, config) for name, values in weights.items()]
    write_checkpoint(fields_of(config), there, tmp_path)
    back = tensors_of(tmp_path)
    assert back.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(back[name], values, err_msg=name)
    assert read_architecture(tmp_path) == read_architecture(TINY)


def test_a_model_without_a_matrix_for_the_head_is_tied(tmp_path):
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    weights = {"model.norm.weight": np.ones(192, np.float32)}
    there = [as_gguf(name, values, config) for name, values in weights.items()]
    write_checkpoint(fields_of(config), there, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["tie_word_embeddings"] is True


def test_the_tokenizer_splits_digits_and_keeps_control_tokens_whole(tmp_path):
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    write_checkpoint(fields_of(config), [], tmp_path)
    loaded = Tokenizer.load(tmp_path)
    ids = loaded.encode("ab a12.<|end|>\n")
    assert [TOKENS[i] for i in ids] == ["ab", "Ġa", "1", "2", ".", "<|end|>", "Ċ"]
    assert loaded.decode(ids) == "ab a12.\n"
    assert loaded.eos_ids == (0,)
    assert loaded.encode_chat([{"role": "user", "content": "ab"}]) == (8, 0)


def test_a_space_before_a_digit_is_a_token_of_its_own():
    fields = fields_of(
        {**json.loads((TINY / "config.json").read_text()), "vocab_size": 12}
    )
    assert tokenizer(fields).encode("a 1").tokens == ["a", "Ġ", "1"]


def test_a_tensor_that_no_llama_has_is_refused():
    with pytest.raises(
        click.ClickException, match=r"blk\.0\.ssm_a\.weight: found in the"
    ):
        hugging_face_name("blk.0.ssm_a.weight")


def test_a_missing_package_is_named():
    with pytest.raises(click.ClickException, match="package no_smollm: not found, exp"):
        find_gguf("no_smollm")
