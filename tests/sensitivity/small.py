"""A random model with a text of bytes, which is estimated quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text, read_text
from tests.support.tiny_models import write_tiny_model

WINDOW = 16


def small_model(folder: Path, **overrides: Any) -> StreamedModel:
    """Opens a model of four layers."""
    return StreamedModel(write_tiny_model(folder / "model", **overrides), group_size=32)


def write_text_file(folder: Path, *, num_tokens: int = 96, seed: int = 0) -> Path:
    """Writes random letters, of which each is one token."""
    letters = np.random.default_rng(seed).choice(list("abcdefgh \n"), num_tokens)
    path = folder / f"text-{seed}.txt"
    path.write_text("".join(letters))
    return path


def small_text(model: StreamedModel, folder: Path, **choices: int) -> Text:
    """Reads six windows."""
    path = write_text_file(folder, **choices)
    return read_text(path, Tokenizer.load(model.folder), window=WINDOW)
