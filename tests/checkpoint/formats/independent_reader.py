"""Reads a compressed-tensors folder by the format's public description; no code of ours.

Of a module that config_groups names, `weight_packed` holds integers plus half their range
along the inputs, lowest bits first, and weight = weight_scale · integer, a scale for each
output feature and group of consecutive inputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder holds.

    Attributes:
        config: Its config.json.
        plain: Tensors of modules that are not quantised, by name.
        dense_FC: Float64 matrices [features, inputs] of those that are, by module.
        bits: Of those, by module.
        ignored: Modules that the description leaves at 16 bits.
    """

    config: dict[str, Any]
    plain: dict[str, np.ndarray]
    dense_FC: dict[str, np.ndarray]
    bits: dict[str, int]
    ignored: list[str]


def read_folder(folder: Path) -> Folder:
    config = json.loads((folder / "config.json").read_text())
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors |= load_file(folder / name)
    described = config.get("quantization_config", {"config_groups": {}, "ignore": []})
    dense_FC: dict[str, np.ndarray] = {}
    bits: dict[str, int] = {}
    for group in described["config_groups"].values():
        assert described["quant_method"] == "compressed-tensors"
        assert described["format"] == "pack-quantized"
        assert group["input_activations"] is group["output_activations"] is None
        weights = group["weights"]
        assert (weights["type"], weights["symmetric"]) == ("int", True)
        for module in group["targets"]:
            parts = {
                suffix: tensors.pop(f"{module}.{suffix}")
                for suffix in ("weight_packed", "weight_shape", "weight_scale")
            }
            assert module not in dense_FC
            dense_FC[module] = _dense(parts, weights)
            bits[module] = weights["num_bits"]
    return Folder(
        config=config,
        plain=tensors,
        dense_FC=dense_FC,
        bits=bits,
        ignored=described["ignore"],
    )


def _dense(parts: dict[str, np.ndarray], weights: dict[str, Any]) -> np.ndarray:
    num_features, num_inputs = parts["weight_shape"].tolist()
    num_bits = weights["num_bits"]
    is_channel = weights["strategy"] == "channel"
    assert is_channel == (weights["group_size"] is None)
    group_size = num_inputs if is_channel else weights["group_size"]
    words = parts["weight_packed"].astype(np.int64) % 2**32
    per_word = 32 // num_bits
    dense = np.empty((num_features, num_inputs))
    for i in range(num_inputs):
        stored = words[:, i // per_word] // 2 ** (num_bits * (i % per_word))
        integer = stored % 2**num_bits - 2 ** (num_bits - 1)
        dense[:, i] = parts["weight_scale"][:, i // group_size].astype(float) * integer
    return dense
