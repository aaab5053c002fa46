"""Writes matrices as compressed-tensors in its format pack-quantized.

`compressed_tensors` describes the layout. Scales are stored as float32, the type in which
they are served: the format allows any type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmpq_jax.checkpoint.formats.compressed_tensors import NAME, PACKED, Scheme
from llmpq_jax.checkpoint.formats.quantized_matrix import (
    QuantizedMatrix,
    unpack_nibbles,
)
from llmpq_jax.checkpoint.formats.words import pack_columns, shifted


def scheme_of(matrix: QuantizedMatrix) -> Scheme:
    """Returns how a matrix is quantised, without targets."""
    num_contracted, num_groups = len(matrix.values), len(matrix.scale)
    return Scheme(
        targets=(),
        bits=matrix.bits,
        group_size=-1 if num_groups == 1 else num_contracted // num_groups,
        is_symmetric=matrix.zero_point is None,
    )


def packed_tensors(matrix: QuantizedMatrix) -> dict[str, np.ndarray]:
    """Returns the tensors that a matrix is stored as, by suffix of the module's name.

    Its inputs are in order: newer versions of the format have no other.
    """
    assert matrix.permutation is None
    bits = matrix.bits
    values_CF = matrix.values if bits == 8 else unpack_nibbles(matrix.values)
    tensors: dict[str, np.ndarray] = {}
    values_FC = np.ascontiguousarray(values_CF.T)
    tensors["weight_packed"] = pack_columns(shifted(values_FC, bits), bits)
    tensors["weight_shape"] = np.array(values_FC.shape, np.int64)
    tensors["weight_scale"] = np.ascontiguousarray(matrix.scale.T)
    if matrix.zero_point is not None:
        words_GW = pack_columns(shifted(matrix.zero_point, bits), bits)
        tensors["weight_zero_point"] = np.ascontiguousarray(words_GW.T)
    return tensors


def description(schemes: Mapping[str, Scheme], plain: Sequence[str]) -> dict[str, Any]:
    """Returns quantization_config of config.json; `plain` matrices stay at 16 bits."""
    modules_of: dict[Scheme, list[str]] = {}
    for module, scheme in schemes.items():
        modules_of.setdefault(replace(scheme, targets=()), []).append(module)
    return {
        "quant_method": NAME,
        "format": PACKED,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": modules,
                "weights": {
                    "num_bits": scheme.bits,
                    "type": "int",
                    "symmetric": scheme.is_symmetric,
                    "strategy": "channel" if scheme.group_size == -1 else "group",
                    "group_size": None
                    if scheme.group_size == -1
                    else scheme.group_size,
                    "dynamic": False,
                    "actorder": None,
                },
                "input_activations": None,
                "output_activations": None,
            }
            for number, (scheme, modules) in enumerate(modules_of.items())
        },
        "ignore": list(plain),
        "kv_cache_scheme": None,
    }
