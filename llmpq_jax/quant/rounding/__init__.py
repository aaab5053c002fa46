"""Methods of rounding a weight: to the nearest integer, or calibrated on its inputs."""

from llmpq_jax.quant.rounding.methods import round_weight, rounded

__all__ = ["round_weight", "rounded"]
