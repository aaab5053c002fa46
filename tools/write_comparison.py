"""Writes docs/comparison.md: baselines and ablations on the paper's eleven clusters.

    python -m tools.write_comparison        # about ten minutes

Every number is of the model: seconds come from makers' figures, nothing was run.
"""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.planner.baselines.compare import compare
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.report.comparison import COLUMNS, comparison_markdown
from llmpq_jax.schema.workload import Workload
from llmpq_jax.tasks.planning_request import planning_request
from tools.ablations import Ablation, best_plan, latency_s, lesser_plan
from tools.paper_clusters import CLUSTERS, ROOT, PaperCluster

PAGE = ROOT / "docs" / "comparison.md"
GAP = 1e-3
LIMIT_S = 60.0
_OPTIONS = {"time_limit_s": LIMIT_S, "relative_gap": GAP}
WORKLOAD = Workload(batch=32, prompt_length=512, new_tokens=100)
ABLATIONS: tuple[Ablation, ...] = (
    "phase-blind cut",
    "one bit width",
    "m_p = m_d",
    "all devices",
    "blocks of types",
)

INTRODUCTION = """\
# The joint plan beside baselines

Made by `python -m tools.write_comparison`, for batches of 32 prompts of 512 tokens and 100
new tokens each, as in the paper. One cluster alone:

```sh
llmpq-jax compare --model strategies/models/opt-66b --cluster strategies/paper-06/cluster.toml \\
  --roofline --batch 32 --prompt-length 512 --new-tokens 100
```

**What is model and what is measurement.** All seconds here are model: a roofline over makers'
figures, joined by the schedule of `costmodel/pipeline_schedule.py`, which equals a discrete-event
simulation. Bytes are those of the memory model, which tests compare with packed arrays.
Quality is the squared error of rounding normal weights, alike for all layers, so that bits are
told apart and layers are not. Nothing was run on any of these devices. Seconds of solving
and gaps are measured and proven. Ratios show what the decisions are worth in this model;
they reproduce no table of the paper.

Baselines keep the order of the cluster file and plan by their own rules
([ADR 0016](adr/0016-baselines-by-their-own-rules.md)). Each row's joint plan is the fastest
whose Σω is no larger than the baseline's.

## Baselines
"""


def problem_of(cluster: PaperCluster) -> Problem:
    """The planning problem of a cluster."""
    request = planning_request(
        ROOT / "strategies" / "models" / cluster.model,
        cluster.folder / "cluster.toml",
        WORKLOAD,
        measurements=None,
        sensitivity=None,
    )
    return make_problem(request)


def ablations(problem: Problem) -> list[str]:
    """One row: the full plan's seconds, and how many times longer each lesser one takes."""
    budget = uniform_int8_omega(problem)
    cases = all_subproblems(problem, omega_budget=budget)
    if best_plan(cases, **_OPTIONS) is None:
        free = all_subproblems(problem, omega_budget=None)
        least = search(free, time_limit_s=LIMIT_S, relative_gap=1e-6, goal="omega")
        assert least.found is not None
        cases = all_subproblems(problem, omega_budget=least.found.value)
    full = best_plan(cases, **_OPTIONS)
    assert full is not None
    lesser = [lesser_plan(ablation, cases, **_OPTIONS) for ablation in ABLATIONS]
    seconds = latency_s(full)
    return [f"{seconds:.4g} s"] + [
        "nothing fits" if found is None else f"{latency_s(found) / seconds:.3f}×"
        for found in lesser
    ]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=PAGE)
def main(out: Path) -> None:
    """Write the page."""
    lines = [INTRODUCTION]
    table = [
        f"| cluster | full plan | {' | '.join(ABLATIONS)} |",
        f"|{'---|' * (len(ABLATIONS) + 2)}",
    ]
    for cluster in CLUSTERS:
        what = " + ".join(f"{count}×{kind}" for kind, count in cluster.kinds)
        click.echo(f"{cluster.number}: {what}", err=True)
        problem = problem_of(cluster)
        lines += [f"### {cluster.number}. {what}, {cluster.model}", ""]
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        rows = compare(problem.request, time_limit_s=LIMIT_S, relative_gap=GAP)
        lines += [*comparison_markdown(rows), ""]
        row = [f"{cluster.number}. {what}", *ablations(problem)]
        table.append(f"| {' | '.join(row)} |")
    lines += [
        "## What each decision is worth",
        "",
        "At the quality of `solve`'s default: that of uniform int8, or the least loss that",
        "fits. Times the full plan's seconds; plans within 0.1 % of the best of their kind.",
        "",
        *table,
        "",
        "*Nothing fits* stands where the lesser choice cannot keep that quality in that memory.",
        "*Phase-blind cut*: prefill is taken to be as unequal between devices as decode.",
        "*One bit width*: the best of 16, 8 and 4 bits that keeps the quality. *m_p = m_d*: equal",
        "micro-batches in both phases. *All devices*: none may stay idle. *Blocks of types*:",
        "devices of a type stand side by side; the best of all orders of types.",
    ]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
