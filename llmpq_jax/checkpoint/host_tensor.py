"""One weight on the host, on its way from a file to the devices that serve it."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from llmpq_jax.arch.tensors import TensorSpec
from llmpq_jax.quant import QArray
from llmpq_jax.schema.precision import Bits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HostTensor:
    """A weight in our layout, still to be quantised unless it already is.

    Attributes:
        spec: Name and shape of the weight, and how stages cut it.
        values: NumPy array, or the integers and scales of a weight that was quantised
            before it was read. At 16 bits the array is bfloat16 or float16.
        bits: Bits at which the weight is served; 16 for everything but matrices.
    """

    spec: TensorSpec
    values: np.ndarray | QArray
    bits: Bits

    @classmethod
    def of(
        cls, spec: TensorSpec, values: np.ndarray | QArray, *, bits: Bits
    ) -> HostTensor:
        """Returns a tensor, given its elements in our layout and any floating type.

        They are rounded to bfloat16 if the weight is served at 16 bits and has more.
        """
        served_bits: Bits = bits if spec.is_matrix else 16
        if served_bits == 16 and isinstance(values, np.ndarray):
            is_half = values.dtype.itemsize == 2
            values = values if is_half else values.astype(ml_dtypes.bfloat16)
        return cls(spec=spec, values=values, bits=served_bits)

    @property
    def name(self) -> str:
        """Our name of the weight, such as "mlp.up.weight"."""
        return self.spec.name
