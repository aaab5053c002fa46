"""Compares what a checkpoint holds with what its architecture needs, by headers alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from llmpq_jax.checkpoint.names import HEAD, CheckpointNames, FileTensor, all_files
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.errors import CheckpointError
from llmpq_jax.spec.architecture import Architecture

WEIGHT_DTYPES = tuple(
    np.dtype(kind) for kind in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)
)
_MOST_NAMES = 4


def check_checkpoint(reader: CheckpointReader, architecture: Architecture) -> None:
    """Checks that the checkpoint holds this model's tensors, and no others.

    Raises:
        CheckpointError: A tensor is missing, has another shape or no floating-point
            numbers, or belongs to nothing in the model.
    """
    names = CheckpointNames(architecture, reader)
    files = all_files(names)
    for file in files.values():
        check_tensor(reader, architecture, file)
    strangers = [
        name for name in reader if name not in files and not names.is_harmless(name)
    ]
    if strangers:
        shown = ", ".join(map(repr, strangers[:_MOST_NAMES]))
        more = len(strangers) - _MOST_NAMES
        tail = f" and {more} more" if more > 0 else ""
        msg = f"checkpoint {reader.folder}: {shown}{tail} belong to nothing in {_model(architecture)}: expected no tensors but its own; check that config.json is of these weights"
        raise CheckpointError(msg)


def check_tensor(
    reader: CheckpointReader, architecture: Architecture, file: FileTensor
) -> None:
    """Checks that one tensor is there, as it should be.

    Raises:
        CheckpointError: As in `check_checkpoint`.
    """
    if file.name not in reader:
        hint = ""
        if file.name == HEAD:
            hint = ", whose config.json does not tie the head to the embedding"
        msg = f"checkpoint {reader.folder}: tensor {file.name!r} is missing: expected it with shape {list(file.shape)} for {_model(architecture)}{hint}"
        raise CheckpointError(msg)
    shape = reader.shape(file.name)
    if shape != file.shape:
        msg = f"checkpoint {reader.folder}: tensor {file.name!r}: found shape {list(shape)}, expected {list(file.shape)} for {_model(architecture)}; check that config.json is of these weights"
        raise CheckpointError(msg)
    dtype = reader.dtype(file.name)
    if dtype not in WEIGHT_DTYPES:
        kinds = ", ".join(kind.name for kind in WEIGHT_DTYPES)
        msg = f"checkpoint {reader.folder}: tensor {file.name!r}: found {dtype.name}, expected one of {kinds}; choose a checkpoint that is not quantised"
        raise CheckpointError(msg)


def _model(architecture: Architecture) -> str:
    return f"a {architecture.family} model of {architecture.num_layers} layers"
