"""Predicted and measured seconds of a strategy as figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.strategy import Strategy


def comparison(strategies: Sequence[Strategy], pipeline: Pipeline) -> dict[str, Any]:
    """Compares the predictions of all rounds with all runs of a strategy.

    Args:
        strategies: Predictions of the strategy, one for each round.
        pipeline: Pipeline of the strategy, which ran equally often in each round.
    """
    strategy = strategies[0]
    predicted = [found.predicted for found in strategies if found.predicted]
    predicted_s = [found.latency_s for found in predicted]
    batches = pipeline.batches
    measured_s = [batch.latency_s for batch in batches]
    in_rounds = np.reshape(measured_s, (len(strategies), -1))
    last = batches[-1].stages
    return {
        "stages": [
            f"{stage.layers[0]}-{stage.layers[1] - 1}@{stage.bits[0]}"
            for stage in strategy.stages
        ],
        "micro_batch": [strategy.micro_batch.prefill, strategy.micro_batch.decode],
        "predicted_s": median(predicted_s),
        "predicted_prefill_s": median(found.prefill_s for found in predicted),
        "predicted_decode_s": median(found.decode_s for found in predicted),
        "all_predicted_s": predicted_s,
        "predicted_spread": _spread(predicted_s),
        "measured_s": median(measured_s),
        "measured_prefill_s": median(batch.prefill_s for batch in batches),
        "measured_decode_s": median(batch.decode_s for batch in batches),
        "all_measured_s": measured_s,
        "spread": _spread(measured_s),
        "ratio": median(predicted_s) / median(measured_s),
        "ratios": (predicted_s / np.median(in_rounds, axis=1)).tolist(),
        "predicted_stage_s": [
            [
                (s.predicted.prefill_s, s.predicted.decode_s)
                for s in found.stages
                if s.predicted
            ]
            for found in strategies
        ],
        "measured_stage_s": [(s.prefill_s, s.decode_s) for s in last],
        "idle_share": [s.idle_s / batches[-1].latency_s for s in last],
    }


def _spread(seconds: Sequence[float]) -> float:
    """Returns half the distance between the quartiles, divided by the median."""
    first, middle, third = np.percentile(seconds, [25, 50, 75]).tolist()
    return (third - first) / 2 / middle


def out_of_order(rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Returns pairs (fast, slow) that are measured in the opposite order.

    Only pairs whose predictions differ by more than 15 % and the spread are compared.
    """
    wrong = []
    for a, b in combinations(range(len(rows)), 2):
        fast, slow = sorted((a, b), key=lambda i: rows[i]["predicted_s"])
        margin = 0.15 + rows[fast]["spread"] + rows[slow]["spread"]
        is_predicted = (
            rows[slow]["predicted_s"] > (1 + margin) * rows[fast]["predicted_s"]
        )
        if is_predicted and rows[slow]["measured_s"] <= rows[fast]["measured_s"]:
            wrong.append((fast, slow))
    return wrong
