"""Formats of quantised checkpoints.

Each format has a module that reads its description in config.json, names the tensors of
one matrix, and converts them to our layout without changing an integer or a scale. A
field that is not understood is refused by name. docs/checkpoints.md has the formulas.
"""

from llmpq_jax.checkpoint.formats._find_format import read_format
from llmpq_jax.checkpoint.formats._format import Format, FormatTensor, Linear, LowBits
from llmpq_jax.checkpoint.formats.quantized_matrix import QuantizedMatrix

__all__ = [
    "Format",
    "FormatTensor",
    "Linear",
    "LowBits",
    "QuantizedMatrix",
    "read_format",
]
