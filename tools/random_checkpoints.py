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

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.names import CheckpointNames, all_sources
from llmpq_jax.checkpoint.shard_writer import ShardWriter
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
    sources = all_sources(CheckpointNames(read_architecture(folder)))
    files = {file.name: file for _, file in sources}
    generator = np.random.default_rng(seed)
    shards = ShardWriter(folder, shard_bytes=shard_bytes)
    for name, file in files.items():
        drawn = _draw(file.shape, file.is_transposed, generator, _DTYPES[dtype])
        shards.add({name: drawn})
    shards.finish()


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
