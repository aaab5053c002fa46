"""Tables of the measurements, for docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
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


def all_tables(experiment: Experiment, results: Path) -> str:
    """Returns all tables of docs/results.md.

    Args:
        experiment: Definition of the experiment.
        results: Folder with a folder of each cluster and of the tiny model.
    """
    folders = [results / name for name in experiment.clusters]
    sections = {
        "Speedup of the joint plan over each baseline": summary_table(folders),
        **{folder.name: cluster_tables(experiment, folder) for folder in folders},
        "The trained tiny model": perplexity_table(results / "tiny"),
    }
    return "\n".join(
        line
        for title, lines in sections.items()
        for line in (f"### {title}", "", *lines, "")
    )


def cluster_tables(experiment: Experiment, folder: Path) -> list[str]:
    """Returns a cluster's tables: baselines with their joint plans, then ablations.

    Rates are new tokens per second of the whole batch: medians, with the minimum and the
    maximum of all runs that count. KL is in nats per token, from 16 bits.
    """
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    kl = json.loads((folder / "kl.json").read_text(encoding="utf-8"))
    tokens = experiment.batch * experiment.new_tokens
    joint = _joint_plans(plans)
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for own in _baselines(plans):
        if own["strategy"] is None:
            continue
        best = joint[own["method"]]
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
        for plan in _baselines(plans)
        if plan["strategy"] is None
    ]
    ablations = _ablations(plans)
    if ablations:
        full = ablations[0]
        lines += ["", "| planner | Σω | KL | predicted | measured | ratio measured |"]
        lines.append("|---|---|---|---|---|---|")
        for plan in ablations:
            cells = [plan["method"], *_cells(plan, runs, kl, tokens)]
            cells.append(_ratio(plan, full, runs))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary_table(folders: Sequence[Path]) -> list[str]:
    """Returns the speedup of joint plans over each baseline, by cluster.

    Speedups are ratios of medians; the mean is over the clusters where the baseline
    finds a plan.
    """
    ratios: dict[str, list[float | None]] = {}
    for folder in folders:
        plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
        runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
        joint = _joint_plans(plans)
        for plan in _baselines(plans):
            best = joint.get(plan["method"])
            found = None if best is None else _speedup(plan, best, runs)
            ratios.setdefault(plan["method"], []).append(found)
    names = [folder.name for folder in folders]
    lines = [
        f"| baseline | {' | '.join(names)} | mean |",
        f"|{'---|' * (len(names) + 2)}",
    ]
    for method, found in ratios.items():
        known = [ratio for ratio in found if ratio is not None]
        cells = ["–" if ratio is None else f"{ratio:.2f}×" for ratio in found]
        mean = f"{fmean(known):.2f}×" if known else "–"
        lines.append(f"| {method} | {' | '.join(cells)} | {mean} |")
    return lines


def perplexity_table(folder: Path) -> list[str]:
    """Returns the table of the trained tiny model."""
    rows = json.loads((folder / "perplexity.json").read_text(encoding="utf-8"))
    found = [row for row in rows if row["perplexity"] is not None]
    lines = [
        f"At 16 bits the perplexity is {found[0]['perplexity_16']:.4f}.",
        "",
        "| method | Σω | KL, nats per token | perplexity | predicted, ms |",
        "|---|---|---|---|---|",
    ]
    baseline = ""
    for row in rows:
        method = row["method"]
        if method.startswith(JOINT):
            method = f"{JOINT} for {baseline}"
        else:
            baseline = method
        cells = "nothing fits | – | – | –"
        if row in found:
            cells = f"{row['omega']:.3g} | {row['kl']:.3g} | {row['perplexity']:.4f} | {1e3 * row['predicted_s']:.0f}"
        lines.append(f"| {method} | {cells} |")
    return lines


def _joint_plans(plans: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns joint plans by their baseline's name; each follows its baseline."""
    return {
        baseline["method"]: plan
        for baseline, plan in pairwise(plans)
        if plan["method"] == JOINT
    }


def _baselines(plans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    first = plans[: _first_ablation(plans)]
    return [plan for plan in first if plan["method"] != JOINT]


def _ablations(plans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [plan for plan in plans[_first_ablation(plans) :] if plan["strategy"]]


def _first_ablation(plans: Sequence[dict[str, Any]]) -> int:
    """Returns the index of the full planner, which the ablations follow."""
    names = [plan["method"] for plan in plans]
    return names.index("full planner") if "full planner" in names else len(names)


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
    ratio = _speedup(own, best, runs)
    return "–" if ratio is None else f"{ratio:.2f}×"


def _speedup(
    own: dict[str, Any], best: dict[str, Any], runs: dict[str, Any]
) -> float | None:
    if own["strategy"] not in runs or best["strategy"] not in runs:
        return None
    own_s, best_s = (
        median(runs[plan["strategy"]]["latency_s"]) for plan in (own, best)
    )
    return own_s / best_s
