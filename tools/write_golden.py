"""Writes tests/golden: tiny random checkpoints and what transformers computes on them.

Run from the repository root in a separate environment, because neither the program nor
its tests need torch:

    python -m pip install torch==2.13.0 transformers==5.23.0 numpy safetensors
    python -m tools.write_golden

Every model is written in bfloat16, one in float32, and run in float32, so that the arrays
are the result of exact arithmetic on the written weights, to float32 rounding. All prompts of a model
run as one left-padded batch; the tool checks that each row agrees with the same prompt
run alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

FOLDER = Path("tests/golden")
# Trained weights, which are not rewritten here; only their logits are.
SHIPPED = Path("examples/tiny-code-lm")
PROMPT_LENGTHS = (9, 1, 14, 5)
NUM_GREEDY = 8
# Left padding shifts where float32 sums are split; logits here are a few units large.
ROUNDING = 2e-4

_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_QWEN2 = _LLAMA | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "sliding_window": 4,
    "max_window_layers": 1,
}
_OPT = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "word_embed_proj_dim": 32,
    "_remove_final_layer_norm": False,
    "dropout": 0.1,
    "torch_dtype": "bfloat16",
}

# Like published config.json files: some with the old fields of rotary embeddings, some
# with the new ones.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA | {"rope_theta": 10000.0, "rope_scaling": None},
    "llama-rope-llama3": _LLAMA
    | {
        # Heads this wide and a base this small give fast, slow and blended rates.
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "rope_theta": 500.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
            "rope_type": "llama3",
        },
    },
    "llama-tied-grouped": _LLAMA
    | {
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "llama-rope-linear": _LLAMA
    | {
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "mistral": _LLAMA
    | {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "sliding_window": 4,
    },
    "qwen2": _QWEN2,
    "qwen2-sliding": _QWEN2 | {"use_sliding_window": True, "tie_word_embeddings": True},
    "qwen3": _LLAMA
    | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "opt": _OPT,
    "opt-350m": _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "bloom": {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": 96,
        "n_embed": 36,
        "n_layer": 3,
        # Not a power of two: ALiBi then interleaves two series of slopes.
        "num_attention_heads": 6,
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "seq_length": 64,
        "torch_dtype": "bfloat16",
    },
}
CONFIGS["llama-float32"] = CONFIGS["llama-tied-grouped"] | {"torch_dtype": "float32"}
# Written as several files with an index, as large checkpoints are.
SHARDED = {"qwen2": "40KB"}


def main() -> None:
    """Rewrites every golden model and its arrays."""
    torch.set_num_threads(1)
    disable_progress_bar()
    for number, (name, config) in enumerate(CONFIGS.items()):
        folder = FOLDER / "models" / name
        write_checkpoint(
            folder, config, seed=number, shard_size=SHARDED.get(name, "1GB")
        )
        arrays = run(folder, seed=1000 + number)
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)  # pyright: ignore[reportArgumentType]
    arrays = run(SHIPPED, seed=2000)
    np.savez_compressed(FOLDER / f"{SHIPPED.name}.npz", **arrays)  # pyright: ignore[reportArgumentType]


def write_checkpoint(
    folder: Path, config: dict[str, Any], *, seed: int, shard_size: str
) -> None:
    """Writes a random model in its config's type, with `config` as its config.json."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = AutoModelForCausalLM.from_config(_transformers_config(config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_spread(name, noise))
    dtype = getattr(torch, config["torch_dtype"])
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


@torch.no_grad()
def run(folder: Path, *, seed: int) -> dict[str, np.ndarray]:
    """Runs prompts of unequal length as one batch, then continues them greedily."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    vocabulary_size = model.config.vocab_size
    prompts = [
        torch.randint(vocabulary_size, (length,), generator=generator)
        for length in PROMPT_LENGTHS
    ]
    logits, greedy_tokens, greedy_logits = _prefill_and_decode(model, prompts)
    for row, prompt in enumerate(prompts):
        alone, tokens, steps = _prefill_and_decode(model, [prompt])
        assert torch.equal(tokens[0], greedy_tokens[row])
        assert torch.allclose(alone[0], logits[row], atol=ROUNDING, rtol=0)
        assert torch.allclose(steps[0], greedy_logits[row], atol=ROUNDING, rtol=0)
    return {
        "prompts": torch.cat(prompts).numpy().astype(np.int32),
        "prompt_lengths": np.array(PROMPT_LENGTHS, np.int32),
        "logits_prompt": torch.cat(logits).numpy(),
        "tokens_greedy": greedy_tokens.numpy().astype(np.int32),
        "logits_greedy": greedy_logits.numpy(),
    }


def _prefill_and_decode(
    model: Any, prompts: list[torch.Tensor]
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Returns each prompt's logits, then tokens [B, steps], their logits [B, steps, V]."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    output = _forward(model, tokens, mask, cache=None)
    per_row = [
        output.logits[row, longest - len(prompt) :]
        for row, prompt in enumerate(prompts)
    ]
    chosen: list[torch.Tensor] = []
    steps = [output.logits[:, -1]]
    while len(chosen) < NUM_GREEDY:
        chosen.append(steps[-1].argmax(-1))
        if len(chosen) < NUM_GREEDY:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            output = _forward(model, chosen[-1][:, None], mask, output.past_key_values)
            steps.append(output.logits[:, -1])
    return per_row, torch.stack(chosen, 1), torch.stack(steps, 1)


def _forward(model: Any, tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
    inputs = {"input_ids": tokens, "attention_mask": mask, "past_key_values": cache}
    if model.config.model_type != "bloom":  # it derives positions from the mask
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs["position_ids"] = positions[:, -tokens.shape[1] :]
    return model(**inputs, use_cache=True)


def _transformers_config(config: dict[str, Any]) -> Any:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(config["model_type"], **fields)


def _spread(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Scales unit noise so that every weight matters and logits spread over units."""
    if noise.ndim == 1:
        is_norm_scale = name.endswith("weight")
        return 1 + 0.3 * noise if is_norm_scale else 0.2 * noise
    if "embed" in name:
        return 0.6 * noise
    if "fc2.weight" in name:
        # Summed rectified values are nearly constant; larger, they would drown the rest.
        return noise / (2 * noise.shape[1] ** 0.5)
    return 1.5 * noise / noise.shape[1] ** 0.5


if __name__ == "__main__":
    main()
