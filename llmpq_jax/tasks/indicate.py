"""Judges a model's layers with progress shown: text in, sensitivities out."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.schema.precision import Rounding
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.sensitivity.estimate import Method, SensitivityJob, indicate
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text, read_text


def judge_layers(
    folder: Path,
    text_path: Path,
    *,
    work: Path,
    method: Method = "hessian",
    rounding: Rounding = "nearest",
    rounded: Path | None = None,
    group_size: int = 128,
    window: int = 512,
    max_tokens: int | None = None,
    num_assignments: int = 12,
    seed: int = 0,
) -> Sensitivity:
    """Judges every layer of a checkpoint; see `sensitivity.estimate`.

    Args:
        folder: Of the checkpoint.
        text_path: To judge by.
        work: Folder for what must survive a stop; deleted once all is judged.
        method: Of judging.
        rounding: Of weights.
        rounded: Folder for weights not rounded to the nearest.
        group_size: Of int4, at most.
        window: Tokens of each piece of text.
        max_tokens: Read of the text; all of it where absent.
        num_assignments: Random choices of bits to fit to.
        seed: Of all that is drawn.

    Raises:
        CheckpointError: A tensor is missing, damaged, or of another shape.
        RequestError: The text cannot be read, or windows are longer than the model's
            context.
        UnsupportedModelError: The model is not implemented.
    """
    model = StreamedModel(folder, group_size=group_size)
    text = open_text(model, text_path, window=window, max_tokens=max_tokens)
    errand = SensitivityJob(
        method=method,
        rounding=rounding,
        rounded=rounded,
        num_assignments=num_assignments,
        seed=seed,
    )
    with progress_bar("judging", None, unit="layers") as advance:
        found = indicate(model, text, errand, folder=work, on_step=advance)
    shutil.rmtree(work, ignore_errors=True)
    return found


def open_text(
    model: StreamedModel, path: Path, *, window: int, max_tokens: int | None = None
) -> Text:
    """Reads a text for a model.

    Raises:
        RequestError: As `judge_layers`.
    """
    longest = model.architecture.max_positions
    if window > longest:
        msg = f"--window is {window}: expected at most {longest}, the positions that {model.folder} knows"
        raise RequestError(msg)
    tokenizer = Tokenizer.load(model.folder)
    return read_text(path, tokenizer, window=window, max_tokens=max_tokens)
