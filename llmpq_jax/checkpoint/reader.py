"""A checkpoint folder's weights by name: safetensors, in one file or in several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmpq_jax.checkpoint.safetensors_file import StoredTensor, read_header, read_stored
from llmpq_jax.errors import CheckpointError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class CheckpointReader:
    """Describes every tensor without reading it, and reads them one at a time.

    Iterates over names, in the files' order. All headers are read and checked when the
    reader is made; no file stays open, so a reader may be kept and pickled.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the headers.

        Raises:
            CheckpointError: There are no safetensors, a file is missing or damaged, or
                the index does not match the files.
        """
        self.folder = folder
        self._tensors = _read_headers(folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's axes, from its header."""
        return self._find(name).shape

    def dtype(self, name: str) -> np.dtype:
        """Returns a tensor's type, from its header; bfloat16 is ml_dtypes'."""
        return self._find(name).dtype

    def num_bytes(self, name: str) -> int:
        """Returns a tensor's size, from its header."""
        return self._find(name).num_bytes

    def read(self, name: str) -> np.ndarray:
        """Reads a whole tensor into new memory."""
        return read_stored(self._find(name))

    def _find(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            msg = f"checkpoint {self.folder}: tensor {name!r} is missing: expected it among the {len(self)} that the files have"
            raise CheckpointError(msg)
        return self._tensors[name]


def _read_headers(folder: Path) -> dict[str, StoredTensor]:
    if (folder / WHOLE).is_file():
        return read_header(folder / WHOLE)
    if (folder / INDEX).is_file():
        return _read_shards(folder / INDEX)
    if not folder.is_dir():
        msg = f"checkpoint {folder}: is not a folder: expected the folder of a Hugging Face checkpoint"
        raise CheckpointError(msg)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        msg = f"checkpoint {folder}: found {', '.join(pickles[:3])} but no safetensors: expected {WHOLE} or {INDEX}; pickles may run code and are never read, convert them with transformers' save_pretrained"
        raise CheckpointError(msg)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = ", ".join(others[:3]) or "no weights"
    msg = f"checkpoint {folder}: found {found}: expected {WHOLE} or {INDEX}"
    raise CheckpointError(msg)


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    """Reads the headers of all files an index names, and checks it against them."""
    file_of = _read_index(index)
    tensors: dict[str, StoredTensor] = {}
    for name in dict.fromkeys(file_of.values()):
        shard = index.parent / name
        if not shard.is_file():
            msg = f"weights {index}: names the file {name}, which is missing: expected it in the folder of the index; fetch it"
            raise CheckpointError(msg)
        found = read_header(shard)
        listed = {tensor for tensor, file in file_of.items() if file == name}
        for tensor in sorted(listed - found.keys()):
            msg = f"weights {shard}: lacks the tensor {tensor!r}: expected it there by {index.name}; fetch both again"
            raise CheckpointError(msg)
        for tensor in sorted(found.keys() - listed):
            msg = f"weights {shard}: holds the tensor {tensor!r}: expected {index.name} to list it; fetch both again"
            raise CheckpointError(msg)
        tensors |= found
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as reason:
        msg = f"weights {index}: cannot be read as JSON ({reason}): expected an index of safetensors files; fetch it again"
        raise CheckpointError(msg) from reason
    file_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(file_of, dict) or not file_of:
        msg = f"weights {index}: weight_map: found {file_of!r}, expected an object of tensor and file names"
        raise CheckpointError(msg)
    for tensor, name in file_of.items():
        # An untrusted checkpoint must not have files of other folders read.
        is_name = isinstance(name, str) and name and "\0" not in name
        if not is_name or Path(name).name != name:
            msg = f"weights {index}: weight_map.{tensor}: found {name!r}, expected the name of a file in the folder of the index"
            raise CheckpointError(msg)
    return file_of
