"""The one product that hides a weight's precision."""

from llmpq_jax.kernels.product import multiply

__all__ = ["multiply"]
