"""Σω against the increase in log-perplexity of random choices of bits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmpq_jax.sensitivity.estimate import METHODS, Method, SensitivityJob, indicate
from llmpq_jax.sensitivity.scale_fit import increase, r_squared, random_assignments
from llmpq_jax.sensitivity.variant import whole
from tools.quality.common import judged, open_model, open_split, print_result

_COUNT = 30


def run(max_tokens: int, seed: int, methods: Sequence[Method] = METHODS) -> None:
    """Foretells thirty random choices with each indicator, fitted on twelve others."""
    model = open_model()
    calibration = open_split("calibration", max_tokens)
    sensitivities = {}
    for method in methods:
        with tempfile.TemporaryDirectory() as folder:
            errand = SensitivityJob(method=method, seed=seed)
            sensitivities[method] = indicate(
                model, calibration, errand, folder=Path(folder)
            )
    generator = np.random.default_rng(seed + 1)
    variants = random_assignments(model.num_layers, _COUNT, generator)
    exact = whole(model.num_layers)
    rows = [("text", "indicator", "R² of increase in log-perplexity", "R² of KL")]
    values = {}
    for split in ("calibration", "evaluation"):
        losses = judged(model, open_split(split, max_tokens), [exact, *variants])
        found = np.array([increase(losses[each], losses[exact]) for each in variants])
        kl = np.array([losses[each].kl.mean(dtype=np.float64) for each in variants])
        values[f"increase/{split}"] = found.tolist()
        values[f"kl/{split}"] = kl.tolist()
        for method, sensitivity in sensitivities.items():
            assert sensitivity.judged is not None
            told = np.array(
                [
                    sum(
                        sensitivity.omega(layer, bits)
                        for layer, bits in enumerate(each.bits)
                    )
                    for each in variants
                ]
            )
            r2 = r_squared(told, found)
            r2_kl = r_squared(told / sensitivity.judged.factor, kl)
            rows.append((split, method, f"{r2:.3f}", f"{r2_kl:.3f}"))
            values[f"{method}/{split}"] = {
                "r2": r2,
                "r2_kl": r2_kl,
                "told": told.tolist(),
                "factor": sensitivity.judged.factor,
            }
    print_result(
        "assignments", rows, seed=seed, num_tokens=calibration.tokens.size, **values
    )
