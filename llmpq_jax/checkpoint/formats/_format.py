"""What every format of quantised weights answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from llmpq_jax.checkpoint.formats._matrix import (
    BFLOAT16,
    LowBits,
    QuantizedMatrix,
    in_groups,
    pack_nibbles,
)
from llmpq_jax.errors import CheckpointError

FLOATS = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """A matrix that a checkpoint may hold quantised.

    Attributes:
        folder: Of the checkpoint.
        module: Its name there, without ".weight".
        num_contracted: C.
        num_features: F.
    """

    folder: Path
    module: str
    num_contracted: int
    num_features: int

    def refuse(self, found: str) -> NoReturn:
        """Raises CheckpointError: what was found, and what to do, about this matrix."""
        msg = f"checkpoint {self.folder}: {self.module} {found}"
        raise CheckpointError(msg)

    def groups_of(self, group_size: int) -> int:
        """Returns how many groups of so many rows there are; one where it is −1."""
        if group_size == -1:
            return 1
        if self.num_contracted % group_size:
            self.refuse(
                f"has {self.num_contracted} rows in groups of {group_size}: "
                "implemented are groups that divide them; choose another checkpoint"
            )
        return self.num_contracted // group_size


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatTensor:
    """One of the tensors that make a quantised matrix.

    Attributes:
        suffix: Of its name, behind the module's and a dot.
        shape: That it must have.
        dtypes: Of which it must have one.
    """

    suffix: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


class Format(ABC):
    """The description of one checkpoint's quantised weights."""

    name: str
    marker: str  # the suffix of a tensor that only quantised matrices have

    @abstractmethod
    def bits(self, linear: Linear) -> LowBits:
        """Returns the bits of a quantised matrix."""

    @abstractmethod
    def parts(self, linear: Linear, found: Container[str]) -> tuple[FormatTensor, ...]:
        """Lists a quantised matrix's tensors.

        Args:
            linear: The matrix.
            found: Names of the tensors that the checkpoint has.
        """

    @abstractmethod
    def matrix(
        self, linear: Linear, tensors: Mapping[str, np.ndarray]
    ) -> QuantizedMatrix:
        """Makes our layout of tensors that are as `parts` says, by suffix."""


def our_layout(
    linear: Linear,
    values_CF: np.ndarray,
    scale_GF: np.ndarray,
    *,
    bits: LowBits,
    zero_point_GF: np.ndarray,
    group_of_C: np.ndarray | None,
) -> QuantizedMatrix:
    """Puts integers, scales and groups as a format has them into our layout.

    Args:
        linear: The matrix.
        values_CF: int8, in the order of the inputs.
        scale_GF: Of any floating type.
        bits: Of the integers.
        zero_point_GF: int8; left away where all are 0.
        group_of_C: Which group an input's row belongs to; in order if None.

    Raises:
        CheckpointError: Groups are of several sizes, features cannot be packed in
            pairs, or a scale is no number.
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
