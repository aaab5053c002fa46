"""A weight at a low bit width: the record, rounding and packing."""

from llmpq_jax.quant.qarray import (
    Leaf,
    QArray,
    dequantize,
    matmul,
    permuted,
    unpacked_values,
)
from llmpq_jax.quant.quantizer import quantize, round_rows

__all__ = [
    "Leaf",
    "QArray",
    "dequantize",
    "matmul",
    "permuted",
    "quantize",
    "round_rows",
    "unpacked_values",
]
