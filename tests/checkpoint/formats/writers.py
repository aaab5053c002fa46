"""Writers of foreign formats, from their public descriptions; no code of ours.

Each draws integers, scales and zero points, packs them one integer at a time, and gives
besides the tensors the float64 matrix [features, inputs] that its format says they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

BITS = Literal[4, 8]
HALF = np.dtype(np.float16)
BRAIN = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A matrix as a foreign engine would have stored it.

    Attributes:
        tensors: By suffix of the module's name.
        dense_FC: What it means, in float64.
        values_CF: Its integers less its zero points, in the order of the inputs.
    """

    tensors: dict[str, np.ndarray]
    dense_FC: np.ndarray
    values_CF: np.ndarray


def draw_scales(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    are_powers: bool = False,
) -> np.ndarray:
    """Draws positive scales; powers of two make all products exact in 16 bits."""
    if are_powers:
        return (2.0 ** -generator.integers(5, 8, shape)).astype(dtype)
    return (0.002 + 0.05 * generator.random(shape)).astype(dtype)


def draw_groups(
    generator: np.random.Generator, num_inputs: int, group_size: int, *, act_order: bool
) -> np.ndarray:
    """Returns which group each input belongs to."""
    group_of = np.array([i // group_size for i in range(num_inputs)], np.int32)
    return generator.permutation(group_of) if act_order else group_of


def pack(rows: np.ndarray, bits: int) -> np.ndarray:
    """Packs along the last axis into 32-bit words, lowest bits first."""
    per_word = 32 // bits
    num_rows, length = rows.shape
    words = np.zeros((num_rows, -(-length // per_word)), np.uint64)
    for index in range(length):
        shift = np.uint64(bits * (index % per_word))
        words[:, index // per_word] |= rows[:, index].astype(np.uint64) << shift
    return words.astype(np.uint32).view(np.int32)


def write_gptq(
    generator: np.random.Generator,
    num_inputs: int,
    num_features: int,
    *,
    bits: BITS = 4,
    group_size: int,
    sym: bool,
    act_order: bool,
    version: Literal["gptq", "gptq_v2"] = "gptq",
    dtype: np.dtype = HALF,
    are_powers: bool = False,
    with_g_idx: bool = True,
) -> Written:
    """AutoGPTQ: words run down the inputs, zero points along the features."""
    num_groups = num_inputs // group_size
    integer_CF = generator.integers(0, 2**bits, (num_inputs, num_features))
    zero_GF = (
        np.full((num_groups, num_features), 2 ** (bits - 1))
        if sym
        else generator.integers(0, 2**bits, (num_groups, num_features))
    )
    scale_GF = draw_scales(
        generator, (num_groups, num_features), dtype, are_powers=are_powers
    )
    group_of = draw_groups(generator, num_inputs, group_size, act_order=act_order)
    zeros = pack(zero_GF, bits)
    if version == "gptq":
        less_one = {4: 0x11111111, 8: 0x01010101}[bits]
        zeros = (zeros.view(np.uint32) - np.uint32(less_one)).view(np.int32)
    tensors = {
        "qweight": np.ascontiguousarray(pack(integer_CF.T, bits).T),
        "qzeros": zeros,
        "scales": scale_GF,
    }
    if with_g_idx:
        tensors["g_idx"] = group_of
    values_CF = integer_CF - zero_GF[group_of]
    dense_CF = scale_GF.astype(np.float64)[group_of] * values_CF
    return Written(tensors=tensors, dense_FC=dense_CF.T, values_CF=values_CF)


def write_awq(
    generator: np.random.Generator,
    num_inputs: int,
    num_features: int,
    *,
    group_size: int,
    dtype: np.dtype = HALF,
    are_powers: bool = False,
    has_zero_points: bool = True,
) -> Written:
    """AutoAWQ's layout for its GEMM: words along the features, their order mixed."""
    num_groups = num_inputs // group_size
    integer_CF = generator.integers(0, 16, (num_inputs, num_features))
    zero_GF = generator.integers(0, 16, (num_groups, num_features))
    if not has_zero_points:
        zero_GF[:] = 8
    scale_GF = draw_scales(
        generator, (num_groups, num_features), dtype, are_powers=are_powers
    )

    def mixed(rows: np.ndarray) -> np.ndarray:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        columns = [
            8 * word + order[nibble]
            for word in range(num_features // 8)
            for nibble in range(8)
        ]
        return pack(rows[:, columns], 4)

    group_of = draw_groups(generator, num_inputs, group_size, act_order=False)
    values_CF = integer_CF - zero_GF[group_of]
    dense_CF = values_CF * scale_GF.astype(np.float64)[group_of]
    tensors = {
        "qweight": mixed(integer_CF),
        "qzeros": mixed(zero_GF),
        "scales": scale_GF,
    }
    return Written(tensors=tensors, dense_FC=dense_CF.T, values_CF=values_CF)


def write_compressed(
    generator: np.random.Generator,
    num_inputs: int,
    num_features: int,
    *,
    bits: BITS = 4,
    strategy: Literal["group", "channel", "tensor"] = "group",
    group_size: int = 32,
    symmetric: bool = True,
    act_order: bool = False,
    storage: Literal["pack-quantized", "int-quantized"] = "pack-quantized",
    dtype: np.dtype = BRAIN,
    are_powers: bool = False,
) -> Written:
    """llm-compressor: signed integers, features first."""
    half = 2 ** (bits - 1)
    size = group_size if strategy == "group" else num_inputs
    scale_shape = (1,) if strategy == "tensor" else (num_features, num_inputs // size)
    integer_FC = generator.integers(-half, half, (num_features, num_inputs))
    zero = (
        np.zeros(scale_shape, np.int64)
        if symmetric
        else generator.integers(-half, half, scale_shape)
    )
    scale = draw_scales(generator, scale_shape, dtype, are_powers=are_powers)
    group_of = draw_groups(generator, num_inputs, size, act_order=act_order)
    tensors: dict[str, np.ndarray] = {"weight_scale": scale}
    if storage == "pack-quantized":
        tensors["weight_packed"] = pack(integer_FC + half, bits)
        tensors["weight_shape"] = np.array([num_features, num_inputs], np.int64)
    else:
        tensors["weight"] = integer_FC.astype(np.int8)
    if not symmetric:
        tensors["weight_zero_point"] = (
            np.ascontiguousarray(pack((zero + half).T, bits).T)
            if storage == "pack-quantized" and strategy != "tensor"
            else zero.astype(np.int8)
        )
    if act_order:
        tensors["weight_g_idx"] = group_of
    wide = scale.astype(np.float64)
    if strategy != "tensor":
        wide, zero = wide[:, group_of], zero[:, group_of]
    values_FC = integer_FC - zero
    return Written(tensors=tensors, dense_FC=wide * values_FC, values_CF=values_FC.T)


def gptq_config(**changes: Any) -> dict[str, Any]:
    """What AutoGPTQ leaves in config.json."""
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "damp_percent": 0.01,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
    } | changes


def awq_config(**changes: Any) -> dict[str, Any]:
    """What AutoAWQ leaves in config.json."""
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    } | changes


def compressed_config(
    *, targets: list[str] | None = None, storage: str = "pack-quantized", **weights: Any
) -> dict[str, Any]:
    """What llm-compressor leaves in config.json, of one group."""
    group = {
        "targets": targets or ["Linear"],
        "weights": {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": 32,
            "dynamic": False,
            "actorder": None,
            "block_structure": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }
        | weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": storage,
        "quantization_status": "compressed",
        "global_compression_ratio": 1.8,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "version": "0.12.2",
    }
