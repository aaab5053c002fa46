"""A Llama checkpoint's weights in the formats of the peers.

GGUF at Q8_0 or Q4_0 for llama.cpp; and our quantised weights dequantised, a float32
checkpoint whose logits in transformers are the reference of our quantised model.

    python -m tools.benchmarks.peers.weights build/models/llama-250m --bits 8 --out model.gguf
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import gguf  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp
import numpy as np
from gguf.quants import quantize as gguf_quantize  # pyright: ignore[reportMissingImports]
from safetensors import safe_open
from safetensors.numpy import save_file

from llmpq_jax.quant import dequantize, quantize
from llmpq_jax.schema.precision import Bits

_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_GGUF_TYPES = {
    8: gguf.GGMLQuantizationType.Q8_0,
    4: gguf.GGMLQuantizationType.Q4_0,
}
HEAD_TYPE = gguf.GGMLQuantizationType.Q8_0


def write_gguf(folder: Path, bits: Bits, out: Path) -> None:
    """Writes a GGUF file; embedding and head are Q8_0 at both precisions."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(folder.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, folder, config)
    for name, tensor in _tensors(folder):
        new_name, kind = _gguf_tensor(name, _GGUF_TYPES[bits])
        values = tensor
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleaved(tensor, config["head_dim"])
        if kind is None:
            writer.add_tensor(new_name, values)
        else:
            writer.add_tensor(new_name, gguf_quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(
    writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]
) -> None:
    """Adds the tokenizer of a random model, whose tokens are bytes (`random_model`)."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    texts = [f"[{index}]" for index in range(config["vocab_size"])]
    for text, index in model["vocab"].items():
        texts[index] = text
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(texts))
    # llama.cpp refuses a file without merges; these two texts never meet.
    writer.add_token_merges([f"{texts[-2]} {texts[-1]}"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def write_dequantized(folder: Path, bits: Bits, out: Path) -> None:
    """Writes a float32 checkpoint of the dequantised weights."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "config.json", out)
    tensors = {}
    for name, tensor in _tensors(folder):
        is_head = name == "lm_head.weight"
        own_bits = 8 if is_head else bits
        if (is_head or "_proj" in name) and own_bits not in (16, 32):
            weight = quantize(jnp.asarray(tensor.T), bits=own_bits)
            tensors[name] = np.ascontiguousarray(np.asarray(dequantize(weight)).T)
        else:
            tensors[name] = tensor
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="flax") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, np.asarray(file.get_tensor(name), np.float32)


def _gguf_tensor(
    name: str, layer_kind: gguf.GGMLQuantizationType
) -> tuple[str, gguf.GGMLQuantizationType | None]:
    whole = {
        "model.embed_tokens.weight": ("token_embd.weight", HEAD_TYPE),
        "lm_head.weight": ("output.weight", HEAD_TYPE),
        "model.norm.weight": ("output_norm.weight", None),
    }
    if name in whole:
        return whole[name]
    _, _, layer, *part, _ = name.split(".")
    new_name = f"blk.{layer}.{_GGUF_NAMES['.'.join(part)]}.weight"
    return new_name, None if "norm" in new_name else layer_kind


def _interleaved(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Pairs the rows that rotate together, as llama.cpp has them."""
    branch = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return np.ascontiguousarray(branch.swapaxes(1, 2)).reshape(weight.shape)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--bits", type=click.Choice(["4", "8"]), default="8")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(folder: Path, bits: str, out: Path) -> None:
    """Write a checkpoint as a GGUF file."""
    write_gguf(folder, cast("Bits", int(bits)), out)


if __name__ == "__main__":
    main()
