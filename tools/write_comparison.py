"""Writes docs/comparison.md: baselines and ablations on the paper's eleven clusters.

    python -m tools.write_comparison        # about ten minutes

All latencies are predicted from data-sheet figures; nothing was run.
"""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.planner.baselines.compare import compare
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.report.comparison import COLUMNS, comparison_markdown
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.workload import Workload
from llmpq_jax.tasks.planning_request import planning_request
from tools.ablations import Ablation, ablated_plan, best_plan, latency_s
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
# The joint plan compared with baselines

Made by `python -m tools.write_comparison`, for batches of 32 prompts of 512 tokens and 100
new tokens each, as in the paper. A single cluster:

```sh
llmpq-jax compare --model strategies/models/opt-66b --cluster strategies/paper-06/cluster.toml \\
  --roofline --batch 32 --prompt-length 512 --new-tokens 100
```

**What is predicted and what is measured.** All latencies are predicted: by a roofline over
data-sheet figures and the schedule of `costmodel/pipeline_schedule.py`, which equals a
discrete-event simulation. Bytes are those of the memory model, which tests compare with packed
arrays. Quality is the squared error of rounding normal weights, equal for all layers, so that
it distinguishes bit widths and not layers. Nothing was run on any of these devices. Gaps are
proven, and seconds of solving are measured. Ratios show the value of the decisions in this
model; they reproduce no table of the paper.

Baselines keep the order of the cluster file and plan by their own rules
([ADR 0016](adr/0016-baselines-by-their-own-rules.md)). Each row's joint plan is the fastest
whose Σω is no larger than the baseline's.

## Baselines
"""


def problem_of(cluster: PaperCluster) -> Problem:
    """Returns the planning problem of a cluster."""
    request = planning_request(
        ROOT / "strategies" / "models" / cluster.model,
        WORKLOAD,
        SolveRequest(
            sources=Sources(cluster=str(cluster.folder / "cluster.toml"), roofline=True)
        ),
    )
    return make_problem(request)


def ablations(problem: Problem) -> list[str]:
    """Returns one row: the full plan's seconds, and each ablation's multiple of them."""
    budget = uniform_int8_omega(problem)
    subproblems = all_subproblems(problem, omega_budget=budget)
    if best_plan(subproblems, **_OPTIONS) is None:
        free = all_subproblems(problem, omega_budget=None)
        smallest = search(free, time_limit_s=LIMIT_S, relative_gap=1e-6, goal="omega")
        assert smallest.incumbent is not None
        subproblems = all_subproblems(problem, omega_budget=smallest.incumbent.value)
    full = best_plan(subproblems, **_OPTIONS)
    assert full is not None
    ablated = [ablated_plan(name, subproblems, **_OPTIONS) for name in ABLATIONS]
    seconds = latency_s(full)
    return [f"{seconds:.4g} s"] + [
        "nothing fits" if found is None else f"{latency_s(found) / seconds:.3f}×"
        for found in ablated
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
        "## The value of each decision",
        "",
        "At the quality of `solve`'s default: that of uniform int8, or the smallest loss that",
        "fits. Multiples of the full plan's seconds; plans within 0.1 % of the best of their kind.",
        "",
        *table,
        "",
        "*Nothing fits*: the ablation cannot keep that quality in that memory.",
        "*Phase-blind cut*: planned as if prefill differed between devices as much as decode.",
        "*One bit width*: the best of 16, 8 and 4 bits that keeps the quality. *m_p = m_d*: equal",
        "micro-batches in both phases. *All devices*: none may be idle. *Blocks of types*:",
        "devices of a type are adjacent; the best of all orders of types.",
    ]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
