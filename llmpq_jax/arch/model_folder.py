"""The folder that a model is in, wherever a model is named."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.errors import CheckpointError


def check_model_folder(path: Path) -> None:
    """Refuses a path without a folder, such as the name of a model to download.

    Raises:
        CheckpointError: There is no folder.
    """
    if not path.is_dir():
        msg = f"model {path}: is not a folder: expected one with config.json, safetensors and tokenizer, since nothing is downloaded; fetch the model first, for instance by `hf download NAME --local-dir DIR`, and name DIR with --model, or as model.path in a strategy"
        raise CheckpointError(msg)
