"""One weight on the host, on its way from a file to the devices that serve it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import TensorSpec, for_width
from llmpq_jax.quant import QArray
from llmpq_jax.schema.precision import Bits, vector_bits

_KEY_VALUE_NAMES = ("attention.key.", "attention.value.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HostTensor:
    """A weight in our layout, still to be quantised unless it already is.

    Attributes:
        spec: Name and shape of the weight, and how stages cut it.
        values: NumPy array, or the integers and scales of a weight that was quantised
            before it was read. At 16 bits the array is bfloat16 or float16, at 32
            float32.
        bits: Bits at which the weight is served; 16 or 32 for everything but matrices.
    """

    spec: TensorSpec
    values: np.ndarray | QArray
    bits: Bits

    @classmethod
    def of(
        cls, spec: TensorSpec, values: np.ndarray | QArray, *, bits: Bits
    ) -> HostTensor:
        """Returns a tensor, given its elements in our layout and any floating type.

        They are rounded to bfloat16 if the weight is served at 16 bits and has more, to
        float32 at 32.
        """
        served_bits: Bits = bits if spec.is_matrix else vector_bits(bits)
        if isinstance(values, np.ndarray):
            if served_bits == 32:
                values = values.astype(np.float32, copy=False)
            elif served_bits == 16 and values.dtype.itemsize != 2:
                values = values.astype(ml_dtypes.bfloat16)
        return cls(spec=spec, values=values, bits=served_bits)

    def for_width(self, architecture: Architecture, width: int) -> HostTensor:
        """Returns a layer's tensor with as many key-value heads as `width` devices need."""
        served = for_width(architecture, width)
        copies = served.num_kv_heads // architecture.num_kv_heads
        if copies == 1 or not self.name.startswith(_KEY_VALUE_NAMES):
            return self
        shape = (*self.spec.shape[:-1], self.spec.shape[-1] * copies)

        def with_copies(array: np.ndarray) -> np.ndarray:
            heads = array.reshape(*array.shape[:-1], architecture.num_kv_heads, -1)
            return np.repeat(heads, copies, axis=-2).reshape(*array.shape[:-1], -1)

        values = self.values
        if isinstance(values, QArray):
            # The permutation is of the inputs.
            scale, zeros = np.asarray(values.scale), values.zero_point
            values = replace(
                values,
                values=with_copies(np.asarray(values.values)),
                scale=with_copies(scale),
                zero_point=None if zeros is None else with_copies(np.asarray(zeros)),
            )
        else:
            values = with_copies(values)
        return replace(self, spec=replace(self.spec, shape=shape), values=values)

    @property
    def name(self) -> str:
        """Our name of the weight, such as "mlp.up.weight"."""
        return self.spec.name
