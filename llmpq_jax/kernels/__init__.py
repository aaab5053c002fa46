"""Products with weights of any precision and layout, and attention over a cache."""

from llmpq_jax.kernels.groups import GroupArray
from llmpq_jax.kernels.layout import serve_matrix, serving_layout
from llmpq_jax.kernels.native_attention import attend_to_cache, serves_attention
from llmpq_jax.kernels.panels import PanelArray
from llmpq_jax.kernels.path import device_kernel_path, kernel_path
from llmpq_jax.kernels.product import Weight, WeightMatrix, multiply, multiply_together

__all__ = [
    "GroupArray",
    "PanelArray",
    "Weight",
    "WeightMatrix",
    "attend_to_cache",
    "device_kernel_path",
    "kernel_path",
    "multiply",
    "multiply_together",
    "serve_matrix",
    "serves_attention",
    "serving_layout",
]
