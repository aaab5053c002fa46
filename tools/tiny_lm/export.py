"""Writes the trained model as a Hugging Face checkpoint folder and evaluates it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from tools.tiny_lm.corpus import DOCUMENT_SEPARATOR
from tools.tiny_lm.network import CONFIG, Params, token_losses


def export_checkpoint(params: Params, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes config, bfloat16 weights and tokenizer; the caller writes the text files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        _hugging_face_tensors(params), folder / "model.safetensors", {"format": "pt"}
    )
    # safetensors writes a file that only its owner may read; the folder is shipped.
    (folder / "model.safetensors").chmod(0o644)
    _write_json(folder / "config.json", CONFIG)
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": 0, "eos_token_id": 0, "do_sample": False},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": DOCUMENT_SEPARATOR,
            "eos_token": DOCUMENT_SEPARATOR,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
        },
    )


def bits_per_byte(params: Params, tokenizer: Tokenizer, texts: list[str]) -> float:
    """Returns −log2 p per byte over whole documents, each after the separator.

    Weights are rounded to bfloat16 first, as they are exported. Windows overlap by
    half, so that every token is predicted from at least half a window of context,
    except at a document's start.
    """
    rounded = jax.tree.map(
        lambda leaf: jnp.asarray(leaf).astype(jnp.bfloat16).astype(jnp.float32), params
    )
    window = CONFIG["max_position_embeddings"]
    losses = jax.jit(token_losses)
    nats = 0.0
    for text in texts:
        tokens = np.array([0, *tokenizer.encode(text, add_special_tokens=False).ids])
        scored = 1
        while scored < len(tokens):
            start = max(0, scored - window // 2)
            chunk = tokens[start : start + window + 1]
            padded = np.zeros(window + 1, np.int32)
            padded[: len(chunk)] = chunk
            row = np.asarray(losses(rounded, padded[None]))[0]
            nats += float(row[scored - start - 1 : len(chunk) - 1].sum())
            scored = start + len(chunk)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def baseline_bits_per_byte(texts: list[str], training: list[str]) -> dict[str, float]:
    """Returns the bits per byte of unigram bytes, gzip, bzip2 and primed xz.

    xz is primed by compressing training text and evaluated text together and subtracting
    the size of the training text alone; its window holds both.
    """
    evaluated = "".join(texts).encode()
    learned = "".join(training).encode()
    counts = Counter(learned)
    total = sum(counts.values()) + 256
    unigram = -sum(math.log2((counts[byte] + 1) / total) for byte in evaluated)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 26}]

    def xz(data: bytes) -> int:
        return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))

    size = len(evaluated)
    return {
        "unigram bytes": unigram / size,
        "gzip": 8 * len(gzip.compress(evaluated, 9)) / size,
        "bzip2": 8 * len(bz2.compress(evaluated, 9)) / size,
        "xz primed with the training text": 8
        * (xz(learned + evaluated) - xz(learned))
        / size,
    }


def _hugging_face_tensors(params: Params) -> dict[str, np.ndarray]:
    def matrix(weight: jax.Array) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(weight.astype(jnp.bfloat16)).T)

    def vector(weight: jax.Array) -> np.ndarray:
        return np.asarray(weight.astype(jnp.bfloat16))

    tensors = {
        "model.embed_tokens.weight": vector(params["embed"]),
        "model.norm.weight": vector(params["norm"]),
        "lm_head.weight": matrix(params["head"]),
    }
    for index, layer in enumerate(params["layers"]):
        prefix = f"model.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            tensors[f"{prefix}self_attn.{name}.weight"] = matrix(layer[name])
        for name in ("gate_proj", "up_proj", "down_proj"):
            tensors[f"{prefix}mlp.{name}.weight"] = matrix(layer[name])
        tensors[f"{prefix}input_layernorm.weight"] = vector(layer["input_norm"])
        tensors[f"{prefix}post_attention_layernorm.weight"] = vector(layer["mlp_norm"])
    return tensors


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
