"""Shared by all experiments: the tiny model, its texts, and how results are printed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.kernels import kernel_path
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.sensitivity.estimate import compute_sensitivity
from llmpq_jax.sensitivity.job import Method, SensitivityJob
from llmpq_jax.sensitivity.losses import Losses, Variant, losses_of
from llmpq_jax.sensitivity.streamed_model import StreamedModel
from llmpq_jax.sensitivity.text import Text, read_text
from tools.provenance import provenance

FOLDER = Path("examples/tiny-code-lm")
WINDOW = 512


def open_model() -> StreamedModel:
    """Opens the tiny model, with weights rounded to nearest."""
    return StreamedModel(FOLDER)


def open_split(name: str, max_tokens: int | None = None) -> Text:
    """Reads the split "calibration", "validation" or "evaluation"."""
    tokenizer = Tokenizer.load(FOLDER)
    path = FOLDER / f"{name}.txt"
    return read_text(path, tokenizer, window=WINDOW, max_tokens=max_tokens)


def sensitivity_by(
    method: Method, model: StreamedModel, text: Text, *, seed: int
) -> Sensitivity:
    """Returns all sensitivities by a method."""
    job = SensitivityJob(method=method, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        return compute_sensitivity(model, text, job, folder=Path(folder))


def losses_by_variant(
    model: StreamedModel, text: Text, variants: Sequence[Variant]
) -> dict[Variant, Losses]:
    """Measures variants in one pass."""
    with tempfile.TemporaryDirectory() as folder:
        found = losses_of(model, text, variants, folder=Path(folder))
    return dict(zip(variants, found, strict=True))


def window_means(losses: Losses) -> np.ndarray:
    """Returns the mean −log p of each window, [W]."""
    return losses.nll.mean(axis=1, dtype=np.float64)


def print_result(experiment: str, rows: Sequence[Sequence[str]], **values: Any) -> None:
    """Prints a Markdown table, whose first row is the heading, and a JSON line."""
    heading, *others = rows
    print("| " + " | ".join(heading) + " |")
    print("|" + "---|" * len(heading))
    for row in others:
        print("| " + " | ".join(row) + " |")
    record = {
        "experiment": experiment,
        **values,
        "kernels": kernel_path("cpu"),
        **provenance("tools.quality"),
    }
    print(json.dumps(record), flush=True)
