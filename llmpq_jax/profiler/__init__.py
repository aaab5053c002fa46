"""Measures what planning needs of each kind of device: layers, embedding, head and links."""

from llmpq_jax.profiler.measure_model import profile
from llmpq_jax.profiler.session import ProfileOptions

__all__ = ["ProfileOptions", "profile"]
