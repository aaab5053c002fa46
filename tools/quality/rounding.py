"""How much of what rounding to the nearest loses at int4 better rounding brings back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from llmpq_jax.schema.precision import Rounding
from llmpq_jax.sensitivity.estimate import SensitivityJob, indicate
from llmpq_jax.sensitivity.intervals import resampled_interval
from llmpq_jax.sensitivity.variant import Variant, whole
from tools.quality.common import (
    judged,
    open_model,
    open_split,
    print_result,
    window_means,
)


def run(max_tokens: int, seed: int) -> None:
    """Rounds all layers to int4 by calibration text, judges them on the evaluation split."""
    text = open_split("evaluation")
    means: dict[str, np.ndarray] = {}
    kl: dict[str, float] = {}
    for rounding in get_args(Rounding):
        model = open_model()
        with tempfile.TemporaryDirectory() as folder:
            if rounding != "nearest":
                errand = SensitivityJob(
                    rounding=rounding,
                    rounded=Path(folder, "rounded"),
                    num_assignments=1,
                    seed=seed,
                )
                calibration = open_split("calibration", max_tokens)
                indicate(model, calibration, errand, folder=Path(folder, "work"))
            int4 = Variant(bits=(4,) * model.num_layers)
            exact = whole(model.num_layers)
            losses = judged(model, text, [exact, int4])
        means["exact"] = window_means(losses[exact])
        means[rounding] = window_means(losses[int4])
        kl[rounding] = float(losses[int4].kl.mean(dtype=np.float64))
    rows = [
        ("rounding", "perplexity", "increase", "95 %", "brought back", "95 %", "KL")
    ]
    values = {}

    def recovered(
        found: np.ndarray, nearest: np.ndarray, exact: np.ndarray
    ) -> np.ndarray:
        before, after = np.exp(nearest) - np.exp(exact), np.exp(found) - np.exp(exact)
        return 1 - after / before

    for rounding in get_args(Rounding):
        three = (means[rounding], means["nearest"], means["exact"])
        whole_means = [np.array([each.mean()]) for each in three]
        share = float(recovered(*whole_means)[0])
        low, high = resampled_interval(recovered, *three)
        more = resampled_interval(
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
                f"{more[0]:+.4f} to {more[1]:+.4f}",
                f"{share:.0%}",
                f"{low:.0%} to {high:.0%}",
                f"{kl[rounding]:.5f}",
            )
        )
        values[rounding] = {
            "perplexity": perplexity,
            "increase": [perplexity - exact_perplexity, *more],
            "recovered": [share, low, high],
            "kl": kl[rounding],
        }
    print_result("rounding", rows, seed=seed, num_tokens=text.tokens.size, **values)
