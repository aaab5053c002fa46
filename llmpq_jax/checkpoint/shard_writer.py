"""Writes tensors to several safetensors files, with the index of their tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from llmpq_jax.checkpoint.reader import INDEX, WHOLE
from llmpq_jax.errors import CheckpointError
from llmpq_jax.files import json_text, write_text
from llmpq_jax.units import MIB


class ShardWriter:
    """Writes tensors into files of a limited size.

    Tensors that are added together stay in one file. Besides them, at most one file's
    tensors are held in memory.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = 256 * MIB) -> None:
        """Starts with no file; only what is added together exceeds `shard_bytes`."""
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._buffered: dict[str, np.ndarray] = {}
        self._shards: list[list[str]] = []
        self._total_bytes = 0

    def add(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Adds tensors, writing those added before if together they would be too large."""
        buffered_bytes = sum(array.nbytes for array in self._buffered.values())
        added_bytes = sum(array.nbytes for array in tensors.values())
        if buffered_bytes + added_bytes > self._shard_bytes:
            self._write()
        self._buffered |= tensors
        self._total_bytes += added_bytes

    def finish(self) -> None:
        """Writes the last file and the index; a single file needs none."""
        self._write()
        count = len(self._shards)
        if count == 1:
            self._path(0).rename(self._folder / WHOLE)
            return
        file_of: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._path(number).rename(self._folder / name)
            file_of |= dict.fromkeys(names, name)
        content = {
            "metadata": {"total_size": self._total_bytes},
            "weight_map": file_of,
        }
        write_text(self._folder / INDEX, json_text(content, indent=2) + "\n")

    def _write(self) -> None:
        if not self._buffered:
            return
        path = self._path(len(self._shards))
        try:
            save_file(self._buffered, path, metadata={"format": "pt"})
        except SafetensorError as reason:
            msg = f"weights {path}: cannot be written ({reason}): expected room for them; name another folder"
            raise CheckpointError(msg) from reason
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)
        self._shards.append(list(self._buffered))
        self._buffered = {}

    def _path(self, number: int) -> Path:
        """Returns a provisional name: the number of files is not known before the last."""
        return self._folder / f"model-{number + 1:05d}.safetensors"
