"""Tables of what was measured, for docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tools.experiments.definition import Experiment
from tools.experiments.plans import JOINT

_COLUMNS = (
    "method",
    "Σω",
    "KL",
    "predicted",
    "measured",
    "joint plan: Σω",
    "KL",
    "predicted",
    "measured",
    "ratio predicted",
    "ratio measured",
)


def cluster_tables(experiment: Experiment, folder: Path) -> list[str]:
    """Writes a cluster's tables: baselines beside joint plans, then lesser planners.

    Rates are new tokens per second of the whole batch; medians, with the least and the
    most of all runs that count. KL is in nats per token, from 16 bits.
    """
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    kl = json.loads((folder / "kl.json").read_text(encoding="utf-8"))
    tokens = experiment.batch * experiment.new_tokens
    joint = {plan["beside"]: plan for plan in plans if plan["method"] == JOINT}
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for plan in plans:
        if plan["method"] not in joint:
            continue
        own, best = plan, joint[plan["method"]]
        cells = [
            own["method"],
            *_cells(own, runs, kl, tokens),
            *_cells(best, runs, kl, tokens),
        ]
        predicted = own["predicted_s"] / best["predicted_s"]
        cells.append(f"{predicted:.2f}×")
        cells.append(_ratio(own, best, runs))
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"| {plan['method']} | nothing fits |{' – |' * (len(_COLUMNS) - 2)}"
        for plan in plans
        if plan["strategy"] is None
    ]
    lesser = _lesser(plans)
    if lesser:
        full = lesser[0]
        lines += ["", "| planner | Σω | KL | predicted | measured | ratio measured |"]
        lines.append("|---|---|---|---|---|---|")
        for plan in lesser:
            cells = [plan["method"], *_cells(plan, runs, kl, tokens)]
            cells.append(_ratio(plan, full, runs))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _lesser(plans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [plan["method"] for plan in plans]
    if "full planner" not in names:
        return []
    return [plan for plan in plans[names.index("full planner") :] if plan["strategy"]]


def _cells(
    plan: dict[str, Any], runs: dict[str, Any], kl: dict[str, float], tokens: int
) -> list[str]:
    return [
        f"{plan['omega']:.3g}",
        f"{kl[plan['strategy']]:.3g}",
        f"{tokens / plan['predicted_s']:.1f}",
        _rates(plan, runs, tokens),
    ]


def _rates(plan: dict[str, Any], runs: dict[str, Any], tokens: int) -> str:
    if plan["strategy"] not in runs:
        return "not run yet"
    rates = [tokens / each for each in runs[plan["strategy"]]["latency_s"]]
    return f"{median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})"


def _ratio(own: dict[str, Any], best: dict[str, Any], runs: dict[str, Any]) -> str:
    if own["strategy"] not in runs or best["strategy"] not in runs:
        return "–"
    seconds, least = (
        median(runs[plan["strategy"]]["latency_s"]) for plan in (own, best)
    )
    return f"{seconds / least:.2f}×"
