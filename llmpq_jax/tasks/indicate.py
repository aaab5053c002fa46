"""Estimates how much quality each layer loses at low precision, with progress on stderr."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.sensitivity.estimate import compute_sensitivity
from llmpq_jax.sensitivity.job import SensitivityJob
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text, read_text


def estimate_sensitivity(
    folder: Path,
    text_path: Path,
    job: SensitivityJob,
    *,
    work: Path,
    on_found: Callable[[Sensitivity], None],
    group_size: int = 128,
    window: int = 512,
    max_tokens: int | None = None,
) -> None:
    """Estimates the sensitivity of every layer of a checkpoint on a text.

    An interrupted run continues from the folder `work`. `on_found` is called with the
    result, and the folder is deleted once it has returned.

    Raises:
        CheckpointError: A tensor is missing, damaged, or of another shape.
        RequestError: The text cannot be read, or windows are longer than the model's
            context.
    """
    model = StreamedModel(folder, group_size=group_size)
    text = open_text(model, text_path, window=window, max_tokens=max_tokens)
    with progress_bar("estimating", None, unit="layers") as advance:
        found = compute_sensitivity(model, text, job, folder=work, on_step=advance)
    on_found(found)
    shutil.rmtree(work, ignore_errors=True)


def open_text(
    model: StreamedModel, path: Path, *, window: int, max_tokens: int | None = None
) -> Text:
    """Reads and tokenises a text for a model.

    Raises:
        RequestError: The text cannot be read, or windows are longer than the model's
            context.
    """
    longest = model.architecture.max_positions
    if window > longest:
        msg = f"--window is {window}: expected at most {longest}, the positions that {model.folder} knows"
        raise RequestError(msg)
    tokenizer = Tokenizer.load(model.folder)
    return read_text(path, tokenizer, window=window, max_tokens=max_tokens)
