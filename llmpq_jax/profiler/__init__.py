"""Measures what planning needs: layers, ends and links, on each kind of device."""

from llmpq_jax.profiler.measure_model import profile

__all__ = ["profile"]
