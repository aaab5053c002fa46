"""`llmpq-jax compare`: the joint plan and baselines, at equal or better quality."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.cli.options.option_group import command
from llmpq_jax.cli.options.planner import search_limits
from llmpq_jax.cli.options.problem import SOURCES, fixed_workload, read_problem
from llmpq_jax.cli.options.shared import JSON
from llmpq_jax.schema.solve_request import SearchLimits, SolveRequest, Sources
from llmpq_jax.schema.workload import Workload


@command(
    "compare",
    SOURCES,
    fixed_workload(),
    search_limits(
        time_limit_s=60.0, gap=1e-3, help="Time for the search of each joint plan."
    ),
    as_json=JSON,
)
def compare_command(
    model: Path,
    sources: Sources,
    workload: Workload,
    search: SearchLimits,
    as_json: bool,
) -> None:
    """Compare the joint plan with those of other planners.

    uniform divides the layers evenly, memory-proportional by the devices' memory.
    PipeEdge balances decode at one precision, with the batch over the devices or with
    its micro-batches searched. adabits minimises the quality loss alone. transfer is the
    paper's heuristic. Each is compared with the fastest plan that loses no more quality.
    """
    from dataclasses import asdict
    from itertools import count
    from typing import get_args

    from llmpq_jax.interrupts import interrupts_end_all
    from llmpq_jax.planner.baselines.compare import Method, compare
    from llmpq_jax.report.comparison import comparison_table
    from llmpq_jax.report.console import (
        note_callback,
        print_json,
        print_line,
        print_table,
        progress_bar,
    )

    problem = read_problem(model, workload, SolveRequest(sources=sources))
    begun = count()
    # A search would go on with its best plan, and the others after it.
    with (
        interrupts_end_all(),
        progress_bar("comparing", len(get_args(Method)), unit="methods") as advance,
    ):
        show_note = note_callback(advance)

        def on_method(method: str) -> None:
            advance(min(1, next(begun)))
            show_note(f"comparing with {method}")

        rows = compare(
            problem,
            time_limit_s=search.time_limit_s,
            relative_gap=search.gap,
            progress=on_method,
        )
    if as_json:
        print_json([asdict(row) | {"ratio": row.ratio} for row in rows])
        return
    print_table(comparison_table(rows))
    basis = "predicted from data-sheet figures" if sources.roofline else "predicted"
    print_line(f"seconds are {basis}; nothing was run")
