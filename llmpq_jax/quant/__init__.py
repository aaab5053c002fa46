"""A weight at a low bit width: the record, rounding, packing, and a slow reference."""

from llmpq_jax.quant.product import matmul
from llmpq_jax.quant.qarray import (
    Leaf,
    QArray,
    dequantize,
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
