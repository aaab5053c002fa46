"""Checkpoint folders of any supported model with random weights.

For tests and benchmarks, where a model's shapes matter and its words do not. Matrices
have variance 1 / contracted axis, so that hidden states keep their magnitude.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.names import CheckpointNames, FileTensor, all_files
from llmpq_jax.checkpoint.reader import INDEX, WHOLE
from llmpq_jax.units import MIB

StoredDtype = Literal["bfloat16", "float32"]
_DTYPES: dict[StoredDtype, np.dtype] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
# Drawn at a time, so that no float32 copy of a whole matrix is ever made.
_DRAWN_ELEMENTS = 1 << 20


def write_random_checkpoint(
    folder: Path,
    config: Mapping[str, object],
    *,
    seed: int = 0,
    dtype: StoredDtype = "bfloat16",
    shard_bytes: int = 256 * MIB,
) -> None:
    """Writes a Hugging Face checkpoint folder with random weights, a shard at a time.

    Args:
        folder: Folder of the checkpoint; created if missing, files in it are replaced.
        config: Content of config.json, of a supported family.
        seed: Seed of the weights, which do not depend on how they are sharded.
        dtype: Type of all tensors.
        shard_bytes: Largest size of a file of more than one tensor; a single file is
            written without an index.

    Raises:
        UnsupportedModelError: The config is not of a supported model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    files = all_files(CheckpointNames(read_architecture(folder)))
    shards = _shards(files, _DTYPES[dtype].itemsize, shard_bytes)
    generator = np.random.default_rng(seed)
    file_of: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        name = WHOLE if len(shards) == 1 else name
        tensors = {
            file.name: _draw(file.shape, file.is_transposed, generator, _DTYPES[dtype])
            for file in shard
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        file_of |= dict.fromkeys(tensors, name)
        del tensors
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": file_of}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _draw(
    shape: tuple[int, ...],
    is_transposed: bool,
    generator: np.random.Generator,
    dtype: np.dtype,
) -> np.ndarray:
    array = np.empty(shape, dtype)
    flat = array.reshape(-1)
    contracted = shape[-1] if is_transposed else shape[0]
    is_matrix = len(shape) == 2
    for start in range(0, flat.size, _DRAWN_ELEMENTS):
        part = flat[start : start + _DRAWN_ELEMENTS]
        noise = generator.standard_normal(part.size, np.float32)
        # Scales of norms are near 1; such biases do no harm.
        part[:] = noise * contracted**-0.5 if is_matrix else 1 + noise * 0.1
    return array


def _shards(
    files: Mapping[str, FileTensor], element_bytes: int, shard_bytes: int
) -> list[list[FileTensor]]:
    shards: list[list[FileTensor]] = [[]]
    filled_bytes = 0
    for file in files.values():
        size = int(np.prod(file.shape)) * element_bytes
        if shards[-1] and filled_bytes + size > shard_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(file)
        filled_bytes += size
    return shards
