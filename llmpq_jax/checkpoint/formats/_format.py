"""The interface of a format of quantised weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from llmpq_jax.checkpoint.formats.quantized_matrix import (
    BFLOAT16,
    LowBits,
    QuantizedMatrix,
    in_groups,
    pack_nibbles,
)
from llmpq_jax.errors import CheckpointError

FLOATS = ("bfloat16", "float16", "float32")

# What AutoRound writes into every format: how it was made, and what the tensors show.
COMMON_IGNORED_KEYS = frozenset(
    [
        "autoround_version",
        "backend",
        "enable_quanted_input",
        "iters",
        "model_free",
        "modules_to_not_convert",
        "provider",
        "static_attention_granularity",
        "static_kv_granularity",
        "to_quant_block_names",
    ]
)
# Quantised activations, caches and scales, and rotated inputs, are not implemented.
COMMON_FIXED_VALUES: Mapping[str, object] = {
    "act_bits": 16,
    "data_type": "int",
    "hadamard_config": None,
    "rotation_config": None,
    "static_attention_dtype": None,
    "static_kv_dtype": None,
    "super_bits": None,
    "super_group_size": None,
    "transform_config": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A matrix that a checkpoint may hold quantised.

    Attributes:
        folder: Folder of the checkpoint.
        module: Name of the matrix there, without ".weight".
        num_contracted: Number of inputs, C.
        num_features: Number of outputs, F.
    """

    folder: Path
    module: str
    num_contracted: int
    num_features: int

    def refuse(self, found: str) -> NoReturn:
        """Raises CheckpointError with what was found of this matrix, and what to do."""
        msg = f"checkpoint {self.folder}: {self.module} {found}"
        raise CheckpointError(msg)

    def groups_of(self, group_size: int) -> int:
        """Returns the number of groups of this many rows; a size of −1 means one group."""
        if group_size == -1:
            return 1
        if self.num_contracted % group_size:
            self.refuse(
                f"has {self.num_contracted} rows in groups of {group_size}: "
                "implemented are groups that divide them; choose another checkpoint"
            )
        return self.num_contracted // group_size


@dataclass(frozen=True, slots=True)
class FormatTensor:
    """A tensor of the file that a quantised matrix is made of.

    Attributes:
        suffix: End of its name, after the module's name and a dot.
        shape: Shape that it must have; −1 where any length is allowed.
        dtypes: Types that it may have.
    """

    suffix: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


class Format(ABC):
    """How one checkpoint's weights are quantised.

    Attributes:
        name: Name of the format.
        marker: Suffix of a tensor that only quantised matrices have.
    """

    name: str
    marker: str

    @abstractmethod
    def bits(self, linear: Linear) -> LowBits:
        """Returns the bits of a quantised matrix."""

    @abstractmethod
    def file_tensors(
        self, linear: Linear, found: Container[str]
    ) -> tuple[FormatTensor, ...]:
        """Returns the tensors of a quantised matrix, given the names that are there."""

    @abstractmethod
    def matrix(
        self, linear: Linear, tensors: Mapping[str, np.ndarray]
    ) -> QuantizedMatrix:
        """Returns a matrix in our layout, given what `file_tensors` asks for by suffix."""


def our_layout(
    linear: Linear,
    values_CF: np.ndarray,
    scale_GF: np.ndarray,
    *,
    bits: LowBits,
    zero_point_GF: np.ndarray,
    group_of_C: np.ndarray | None,
) -> QuantizedMatrix:
    """Returns a matrix in our layout, given a format's integers, scales and groups.

    Integers and zero points are int8, scales of any floating type; zero points that are
    all 0 are dropped. `group_of_C` is None if groups are in the order of the inputs.

    Raises:
        CheckpointError: Groups are of several sizes, features cannot be packed in
            pairs, or a scale is not a finite number.
    """
    if bits == 4 and linear.num_features % 2:
        linear.refuse(
            f"has {linear.num_features} features of 4 bits: implemented are even "
            "numbers of them; choose another checkpoint"
        )
    if not np.isfinite(scale_GF).all():
        linear.refuse("has a scale that is no finite number; fetch the file again")
    permutation = None
    if group_of_C is not None:
        try:
            permutation = in_groups(group_of_C, len(scale_GF))
        except ValueError as reason:
            linear.refuse(f"{reason}; choose another checkpoint")
    if permutation is not None:
        values_CF = values_CF[permutation]
    return QuantizedMatrix(
        values=pack_nibbles(values_CF)
        if bits == 4
        else np.ascontiguousarray(values_CF),
        scale=np.ascontiguousarray(scale_GF, np.float32),
        bits=bits,
        zero_point=np.ascontiguousarray(zero_point_GF) if zero_point_GF.any() else None,
        permutation=permutation,
        dtype=scale_GF.dtype if scale_GF.dtype.itemsize == 2 else BFLOAT16,
    )
