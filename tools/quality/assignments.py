"""Σω compared with the increase in log-perplexity of random assignments of bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.sensitivity.estimate import increase, r_squared, random_assignments
from llmpq_jax.sensitivity.job import METHODS, Method
from llmpq_jax.sensitivity.losses import unrounded
from tools.quality.experiment import (
    losses_by_variant,
    open_model,
    open_split,
    print_result,
    sensitivity_by,
)

_COUNT = 30


def run(max_tokens: int, seed: int, methods: Sequence[Method] = METHODS) -> None:
    """Predicts thirty random assignments by each method, fitted to twelve others."""
    model = open_model()
    calibration = open_split("calibration", max_tokens)
    sensitivities = {
        method: sensitivity_by(method, model, calibration, seed=seed)
        for method in methods
    }
    generator = np.random.default_rng(seed + 1)
    variants = random_assignments(model.num_layers, _COUNT, generator)
    exact = unrounded(model.num_layers)
    rows = [("text", "method", "R² of increase in log-perplexity", "R² of KL")]
    values = {}
    for split in ("calibration", "evaluation"):
        losses = losses_by_variant(
            model, open_split(split, max_tokens), [exact, *variants]
        )
        found = np.array([increase(losses[each], losses[exact]) for each in variants])
        kl = np.array([losses[each].kl.mean(dtype=np.float64) for each in variants])
        values[f"increase/{split}"] = found.tolist()
        values[f"kl/{split}"] = kl.tolist()
        for method, sensitivity in sensitivities.items():
            assert sensitivity.calibration is not None
            factor = sensitivity.calibration.factor
            predicted = np.array(
                [
                    sum(
                        sensitivity.omega(layer, bits)
                        for layer, bits in enumerate(each.bits)
                    )
                    for each in variants
                ]
            )
            r2 = r_squared(predicted, found)
            r2_kl = r_squared(predicted / factor, kl)
            rows.append((split, method, f"{r2:.3f}", f"{r2_kl:.3f}"))
            values[f"{method}/{split}"] = {
                "r2": r2,
                "r2_kl": r2_kl,
                "predicted": predicted.tolist(),
                "factor": factor,
            }
    print_result(
        "assignments", rows, seed=seed, num_tokens=calibration.tokens.size, **values
    )
