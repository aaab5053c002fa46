"""Random checkpoints of real shapes, made on first use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.precision import Activations, Bits, HeadBits
from llmpq_jax.schema.strategy import ModelReference, PrecisionChoice, Stage, Strategy
from llmpq_jax.schema.workload import MicroBatch, Workload
from tools.random_checkpoints import write_random_checkpoint


def llama(
    *,
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    positions: int = 4096,
) -> dict[str, Any]:
    """Returns the config.json of a Llama model of these sizes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "llama-113m": llama(
        layers=16, hidden=768, ffn=2048, heads=12, kv_heads=4, vocabulary=8192
    ),
    "llama-250m": llama(
        layers=16, hidden=1024, ffn=2816, heads=16, kv_heads=4, vocabulary=32_000
    ),
    "llama-3-8b": llama(
        layers=32, hidden=4096, ffn=14336, heads=32, kv_heads=8, vocabulary=128_256
    ),
}


def random_model(name: str, folder: Path) -> Path:
    """Writes a model of `CONFIGS` into a folder, unless it exists there."""
    path = folder / name
    done = path / "tokenizer_config.json"
    if done.exists():
        return path
    write_random_checkpoint(path, CONFIGS[name])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index + 3 for index, character in enumerate(alphabet)}
    # All tokens have a text, as those of a trained model do; none comes of a prompt's.
    size = CONFIGS[name]["vocab_size"]
    vocabulary |= {f"w{index}": index for index in range(len(vocabulary) + 3, size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    done.write_text(json.dumps(settings))
    return path


def random_requests(
    model: Path, *, num_requests: int, prompt_length: int, new_tokens: int
) -> list[Request]:
    """Returns random prompts of one length, completed to the maximum of new tokens."""
    vocabulary = read_architecture(model).vocabulary_size
    tokens = np.random.default_rng(0).integers(
        3, vocabulary, (num_requests, prompt_length)
    )
    return [
        Request(token_ids=tuple(row), max_new_tokens=new_tokens, ignores_eos=True)
        for row in tokens.tolist()
    ]


def even_strategy(
    folder: Path,
    *,
    bits: Bits,
    head_bits: HeadBits,
    num_stages: int,
    batch: int,
    prefill: int,
    decode: int,
    prompt_length: int,
    new_tokens: int,
    activations: Activations = "float32",
    platform: str = "cpu",
) -> Strategy:
    """Returns a strategy of equal stages of one precision on devices 0 and up."""
    architecture = read_architecture(folder)
    cuts = [
        round(stage * architecture.num_layers / num_stages)
        for stage in range(num_stages + 1)
    ]
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
        micro_batch=MicroBatch(prefill=prefill, decode=decode),
        precision=PrecisionChoice(activations=activations, head_bits=head_bits),
        stages=tuple(
            Stage(
                device=f"node0/{platform}:{stage}",
                layers=(cuts[stage], cuts[stage + 1]),
                bits=cast(
                    "tuple[Bits, ...]", (bits,) * (cuts[stage + 1] - cuts[stage])
                ),
            )
            for stage in range(num_stages)
        ),
    )
