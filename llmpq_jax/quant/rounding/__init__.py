"""Ways to round a weight to integers, from the nearest to those that know its inputs."""

from llmpq_jax.quant.rounding.methods import round_weight, rounded

__all__ = ["round_weight", "rounded"]
