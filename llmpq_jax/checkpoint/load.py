"""Puts a checkpoint's weights on JAX's default device, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.checkpoint.host_tensor import HostTensor
from llmpq_jax.kernels import Weight
from llmpq_jax.quant import QArray, quantize

Weights: TypeAlias = dict[str, Weight]


def load_weights(tensors: Iterable[HostTensor], *, group_size: int = 128) -> Weights:
    """Puts tensors on the default device, and quantises them there.

    Weights stay in the layout of `quant.QArray`, with int4 groups of at most
    `group_size` rows; for the layout that kernels serve see
    `stage.sharding.StageSharding.put_weights`.
    """
    weights: Weights = {}
    for tensor in tensors:
        # JAX returns before the work is done; unawaited tensors would pile up.
        weights[tensor.name] = jax.block_until_ready(_quantized(tensor, group_size))
        del tensor
    return weights


def _quantized(tensor: HostTensor, group_size: int) -> Weight:
    array = tensor.values
    if isinstance(array, QArray):
        return jax.tree.map(jnp.asarray, array)
    if tensor.bits in (16, 32):
        return jnp.asarray(array)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return quantize(jnp.asarray(array), bits=tensor.bits, group_size=group_size)
