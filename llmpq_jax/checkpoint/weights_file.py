"""A file of a layer's weights in their served layout, with a digest of every array."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.checkpoint.safetensors_file import read_header, read_stored
from llmpq_jax.interrupts import not_ending, undone_at_end
from llmpq_jax.kernels import GroupArray, PanelArray, Weight
from llmpq_jax.quant import QArray

UNFINISHED = ".writing."
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (QArray, PanelArray, GroupArray)
}
_PLAIN = "array"


def read_weights(path: Path, key: Mapping[str, object]) -> Iterator[tuple[str, Weight]]:
    """Reads a file weight by weight, checking each array against its digest.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: The file is cut short, or its header does not match it.
            SafetensorError, KeyError: The file's metadata are unreadable or incomplete.
        ValueError: The file was written for another key, or an array has changed.
    """
    path.stat()
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    text = metadata["content"]
    content = json.loads(text)
    if metadata["digest"] != _digest(text.encode()) or content["key"] != json.loads(
        sorted_json(key)
    ):
        msg = "the file was written for another key"
        raise ValueError(msg)
    tensors = read_header(path)
    for name, (kind, static, digests) in content["weights"].items():
        arrays: dict[str, Any] = {}
        for leaf, digest in digests.items():
            arrays[leaf] = read_stored(tensors[f"{name}.{leaf}"])
            if _array_digest(arrays[leaf]) != digest:
                msg = f"tensor {name}.{leaf} has changed"
                raise ValueError(msg)
        if kind == _PLAIN:
            yield name, arrays.pop(_PLAIN)
        else:
            yield name, _KINDS[kind](**static, **arrays)
        del arrays


def write_weights(path: Path, key: Mapping[str, object], weights: Weights) -> None:
    """Writes a file in a temporary folder and moves it once it is on the disk."""
    arrays: dict[str, np.ndarray] = {}
    described: dict[str, list[Any]] = {}
    for name, weight in weights.items():
        kind, static, leaves = _leaves(weight)
        digests = {leaf: _array_digest(array) for leaf, array in leaves.items()}
        described[name] = [kind, static, digests]
        arrays |= {f"{name}.{leaf}": array for leaf, array in leaves.items()}
    text = sorted_json({"key": key, "weights": described})
    metadata = {"content": text, "digest": _digest(text.encode())}
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder,
        undone_at_end(partial(shutil.rmtree, folder, ignore_errors=True)),
    ):
        unfinished = Path(folder, path.name)
        save_file(arrays, unfinished, metadata=metadata)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        with not_ending():
            unfinished.replace(path)


def _leaves(
    weight: Weight,
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Returns a weight's class, its fields that are no arrays, and its arrays."""
    if isinstance(weight, jax.Array):
        return _PLAIN, {}, {_PLAIN: np.asarray(weight)}
    assert isinstance(weight, QArray | PanelArray | GroupArray), type(weight)
    static: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields(weight):
        value = getattr(weight, field.name)
        if not field.metadata.get("pytree_node", True):
            static[field.name] = value
        elif value is not None:
            arrays[field.name] = np.asarray(value)
    return type(weight).__name__, static, arrays


def _array_digest(array: np.ndarray) -> str:
    """Hashes type, shape and elements."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sorted_json(value: Mapping[str, object]) -> str:
    """Returns JSON that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True)
