"""Formats of quantised checkpoints.

Each format has a module that reads its description in config.json, names the tensors of
one matrix, and converts them to our layout without changing an integer or a scale. A
field that asks for what is not implemented is refused by name. docs/checkpoints.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from llmpq_jax.arch.families import read_quantization
from llmpq_jax.arch.families.config import Config
from llmpq_jax.checkpoint.formats._format import Format, FormatTensor, Linear, LowBits
from llmpq_jax.checkpoint.formats.auto_round import read_auto_round
from llmpq_jax.checkpoint.formats.awq import read_awq
from llmpq_jax.checkpoint.formats.compressed_tensors import read_compressed_tensors
from llmpq_jax.checkpoint.formats.gptq import read_gptq
from llmpq_jax.checkpoint.formats.quantized_matrix import QuantizedMatrix

__all__ = [
    "Format",
    "FormatTensor",
    "Linear",
    "LowBits",
    "QuantizedMatrix",
    "read_format",
]

_READERS: Mapping[str, Callable[[Config], Format]] = {
    "gptq": read_gptq,
    "awq": read_awq,
    "auto-round": read_auto_round,
    "intel/auto-round": read_auto_round,
    "compressed-tensors": read_compressed_tensors,
}


def read_format(folder: Path) -> Format | None:
    """Reads how a checkpoint's weights are quantised; None if they are not.

    Raises:
        SpecError: The description cannot be read.
        UnsupportedModelError: It asks for what is not implemented.
    """
    found = read_quantization(folder)
    return None if found is None else found.choice("quant_method", _READERS)(found)
