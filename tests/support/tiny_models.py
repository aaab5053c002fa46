"""Random models small enough to compile in a blink, with a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS
from llmpq_jax.schema.precision import Bits, KvBits, WireBits
from llmpq_jax.schema.strategy import (
    Mesh,
    ModelReference,
    PrecisionChoice,
    Stage,
    Strategy,
)
from llmpq_jax.schema.workload import MicroBatch, Workload
from tools.random_checkpoints import write_random_checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def write_tiny_model(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Writes a checkpoint with `CONFIG`, its keys overridden, and a byte tokenizer."""
    write_random_checkpoint(folder, CONFIG | overrides, seed=seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<begin>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<begin>",
        "eos_token": "<end>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def make_strategy(
    folder: Path,
    stages: list[tuple[tuple[int, ...], list[Bits]]],
    *,
    batch: int = 4,
    prompt_length: int = 16,
    new_tokens: int = 8,
    prefill: int = 2,
    decode: int = 2,
    head_bits: int = 16,
    kv_bits: KvBits = 16,
    wire_bits: WireBits = 16,
    chunk_tokens: int = PREFILL_CHUNK_TOKENS,
) -> Strategy:
    """Makes a strategy by hand: for each stage its CPU devices and its layers' bits."""
    architecture = read_architecture(folder)
    made = []
    first = 0
    for number, (devices, bits) in enumerate(stages):
        names = tuple(f"node0/cpu:{index}" for index in devices)
        made.append(
            Stage(
                device=names[0] if len(names) == 1 else None,
                mesh=None
                if len(names) == 1
                else Mesh(devices=names, tensor=len(names)),
                layers=(first, first + len(bits)),
                bits=tuple(bits),
                wire_bits=wire_bits if number + 1 < len(stages) else 16,
            )
        )
        first += len(bits)
    return Strategy(
        model=ModelReference(
            path=str(folder),
            architecture=architecture.family,
            num_layers=architecture.num_layers,
            fingerprint=model_fingerprint(folder),
        ),
        workload=Workload(
            batch=batch, prompt_length=prompt_length, new_tokens=new_tokens
        ),
        micro_batch=MicroBatch(
            prefill=prefill, decode=decode, chunk_tokens=chunk_tokens
        ),
        precision=PrecisionChoice(
            activations="float32",
            head_bits=head_bits,  # pyright: ignore[reportArgumentType]
            kv_bits=kv_bits,
        ),
        stages=tuple(made),
    )
