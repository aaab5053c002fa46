"""Reads one safetensors file: its header, checked against the file, and its tensors.

A file is eight bytes with the header's length (little-endian), the header (JSON: name →
dtype, shape, begin and end of the data), and the data without gaps. Files are read, not
mapped: mapped pages count as this process's memory until the system reclaims them, and a
loader's peak decides whether a model fits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

from llmpq_jax.errors import CheckpointError
from llmpq_jax.files import reading

_MAX_HEADER_BYTES = 100_000_000
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor's position, shape and type in a file.

    Attributes:
        path: Path of the file.
        name: Name of the tensor.
        shape: Lengths of its axes.
        dtype: Type of its elements.
        offset_bytes: Position of its first byte, from the start of the file.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset_bytes: int

    @property
    def num_bytes(self) -> int:
        """Size of the tensor in bytes."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Reads a file's header, and checks that the file is complete.

    Raises:
        CheckpointError: The file cannot be read, is not safetensors, or is cut short.
    """
    with (
        reading(path, "weights", "a safetensors file", CheckpointError),
        path.open("rb") as file,
    ):
        file_bytes = file.seek(0, 2)
        file.seek(0)
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(_MAX_HEADER_BYTES, file_bytes - 8):
            msg = f"weights {path}: {file_bytes} bytes cannot hold a header of {header_bytes}: expected a whole safetensors file; fetch it again"
            raise CheckpointError(msg)
        text = file.read(header_bytes)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as reason:
        msg = f"weights {path}: its header is not JSON ({reason}): expected a safetensors file; fetch it again"
        raise CheckpointError(msg) from reason
    if not isinstance(entries, dict):
        msg = f"weights {path}: its header is a {type(entries).__name__}: expected a JSON object of tensors; fetch it again"
        raise CheckpointError(msg)
    first_byte = 8 + header_bytes
    tensors = {
        name: _stored_tensor(path, name, entry, first_byte)
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    _require_whole(path, tensors, first_byte, file_bytes)
    return tensors


def read_stored(tensor: StoredTensor) -> np.ndarray:
    """Reads a tensor.

    Raises:
        CheckpointError: The file is missing or has become shorter.
    """
    array = np.empty(tensor.shape, tensor.dtype)
    target = array.reshape(-1).view(np.uint8).data
    try:
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.offset_bytes)
            # One call reads at most 2 GiB on Linux.
            while target and (count := file.readinto(target)):
                target = target[count:]
    except OSError as reason:
        msg = f"weights {tensor.path}: tensor {tensor.name!r} cannot be read ({reason.strerror or reason}): expected the file it was when it was opened"
        raise CheckpointError(msg) from reason
    if target:
        msg = f"weights {tensor.path}: tensor {tensor.name!r} ends {len(target)} bytes early: expected the file it was when it was opened; fetch it again"
        raise CheckpointError(msg)
    return array


def _stored_tensor(
    path: Path, name: str, entry: object, first_byte: int
) -> StoredTensor:
    match entry:
        case {
            "dtype": str(dtype),
            "shape": [*shape],
            "data_offsets": [int(begin), int(end)],
        } if all(type(length) is int and length >= 0 for length in shape):
            pass
        case _:
            msg = f"weights {path}: tensor {name!r} is described by {entry!r}: expected dtype, shape and data_offsets; fetch the file again"
            raise CheckpointError(msg)
    if dtype not in DTYPES:
        msg = f"weights {path}: tensor {name!r} has dtype {dtype!r}: expected one of {', '.join(DTYPES)}"
        raise CheckpointError(msg)
    tensor = StoredTensor(
        path=path,
        name=name,
        shape=tuple(shape),
        dtype=DTYPES[dtype],
        offset_bytes=first_byte + begin,
    )
    if end - begin != tensor.num_bytes:
        msg = f"weights {path}: tensor {name!r} has {end - begin} bytes: expected {tensor.num_bytes} for {list(shape)} of {dtype}; fetch the file again"
        raise CheckpointError(msg)
    return tensor


def _require_whole(
    path: Path, tensors: dict[str, StoredTensor], first_byte: int, file_bytes: int
) -> None:
    position = first_byte
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset_bytes, t.num_bytes)):
        if tensor.offset_bytes != position:
            msg = f"weights {path}: tensor {tensor.name!r} begins at byte {tensor.offset_bytes}: expected {position}, where the one before it ends; fetch the file again"
            raise CheckpointError(msg)
        position += tensor.num_bytes
    if position != file_bytes:
        msg = f"weights {path}: the file has {file_bytes} bytes, its header describes {position}: expected a whole safetensors file; fetch it again"
        raise CheckpointError(msg)
