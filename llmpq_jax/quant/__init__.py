"""A weight in fewer bits: the record, rounding, packing, and a slow reference."""

from llmpq_jax.quant.qarray import QArray
from llmpq_jax.quant.quantizer import (
    dequantize,
    quantize,
    round_rows,
    unpacked_values,
)

__all__ = ["QArray", "dequantize", "quantize", "round_rows", "unpacked_values"]
