"""How much of the loss of rounding to nearest at int4 better rounding recovers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from llmpq_jax.schema.precision import Rounding
from llmpq_jax.sensitivity.estimate import compute_sensitivity
from llmpq_jax.sensitivity.evaluation import resampled_interval
from llmpq_jax.sensitivity.job import SensitivityJob
from llmpq_jax.sensitivity.losses import Variant, unrounded
from tools.quality.experiment import (
    losses_by_variant,
    open_model,
    open_split,
    print_result,
    window_means,
)


def run(max_tokens: int, seed: int) -> None:
    """Rounds all layers to int4 on calibration text, and evaluates them on the evaluation split."""
    text = open_split("evaluation")
    means: dict[str, np.ndarray] = {}
    kl: dict[str, float] = {}
    for rounding in get_args(Rounding):
        model = open_model()
        with tempfile.TemporaryDirectory() as folder:
            if rounding != "nearest":
                job = SensitivityJob(
                    rounding=rounding,
                    rounded=Path(folder, "rounded"),
                    num_assignments=1,
                    seed=seed,
                )
                calibration = open_split("calibration", max_tokens)
                compute_sensitivity(
                    model, calibration, job, folder=Path(folder, "work")
                )
            int4 = Variant(bits=(4,) * model.num_layers)
            exact = unrounded(model.num_layers)
            losses = losses_by_variant(model, text, [exact, int4])
        means["exact"] = window_means(losses[exact])
        means[rounding] = window_means(losses[int4])
        kl[rounding] = float(losses[int4].kl.mean(dtype=np.float64))
    rows = [("rounding", "perplexity", "increase", "95 %", "recovered", "95 %", "KL")]
    values = {}
    for rounding in get_args(Rounding):
        three = (means[rounding], means["nearest"], means["exact"])
        means_of_all = [np.array([each.mean()]) for each in three]
        share = float(_recovered(*means_of_all)[0])
        low, high = resampled_interval(_recovered, *three)
        increase = resampled_interval(
            lambda found, exact: np.exp(found) - np.exp(exact), three[0], three[2]
        )
        perplexity, exact_perplexity = (
            float(np.exp(each.mean())) for each in (three[0], three[2])
        )
        rows.append(
            (
                rounding,
                f"{perplexity:.4f}",
                f"{perplexity - exact_perplexity:+.4f}",
                f"{increase[0]:+.4f} to {increase[1]:+.4f}",
                f"{share:.0%}",
                f"{low:.0%} to {high:.0%}",
                f"{kl[rounding]:.5f}",
            )
        )
        values[rounding] = {
            "perplexity": perplexity,
            "increase": [perplexity - exact_perplexity, *increase],
            "recovered": [share, low, high],
            "kl": kl[rounding],
        }
    print_result("rounding", rows, seed=seed, num_tokens=text.tokens.size, **values)


def _recovered(found: np.ndarray, nearest: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Returns the share of nearest rounding's increase in perplexity that is avoided."""
    before, after = np.exp(nearest) - np.exp(exact), np.exp(found) - np.exp(exact)
    return 1 - after / before
