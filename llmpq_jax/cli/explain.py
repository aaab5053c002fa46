"""`llmpq-jax explain`: what a plan takes, what binds it, what a little more would bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.planner_options import (
    choice_options,
    request_with_choices,
    theta_option,
)
from llmpq_jax.cli.problem_options import known_options
from llmpq_jax.cli.recorded import merged_options
from llmpq_jax.cli.shared_options import (
    FILE,
    OUT_FILE,
    json_option,
    omega_budget_option,
    search_options,
)

if TYPE_CHECKING:
    from llmpq_jax.planner.search.search_result import Progress
    from llmpq_jax.planner.whatif import Answer, More, Scenario

_PERCENT = click.FloatRange(min=0, max=1000)


@click.command("explain")
@click.option(
    "--strategy",
    "strategy_path",
    type=FILE,
    metavar="FILE",
    help="What `llmpq-jax solve` or a person wrote.",
)
@click.option(
    "--run",
    "run_path",
    type=FILE,
    metavar="FILE",
    help="Instead of a strategy, what `llmpq-jax generate --record` wrote: the run beside "
    "its prediction.",
)
@click.option(
    "--picture",
    type=OUT_FILE,
    metavar="FILE",
    help="With --run: what each stage did when, predicted and measured, PNG.",
)
@click.option(
    "--trace",
    type=OUT_FILE,
    metavar="FILE",
    help="With --run: the same for Perfetto or Chrome, JSON.",
)
@click.option(
    "--model",
    type=FILE,
    metavar="DIR",
    help="Its checkpoint folder; by default the strategy's.",
)
@click.option(
    "--cluster",
    type=FILE,
    metavar="FILE",
    help="Its devices; this and all that follows by default as the strategy was made.",
)
@known_options
@omega_budget_option
@theta_option
@choice_options
@click.option(
    "--more-memory",
    type=_PERCENT,
    default=5.0,
    show_default=True,
    metavar="PERCENT",
    help="Asked about, of each device.",
)
@click.option(
    "--more-speed",
    type=_PERCENT,
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Asked about, of each device.",
)
@click.option(
    "--more-loss",
    type=_PERCENT,
    default=5.0,
    show_default=True,
    metavar="PERCENT",
    help="Asked about, of the budget for the quality loss.",
)
@click.option(
    "--without-solving",
    is_flag=True,
    help="Only take the plan apart: ask nothing that needs a search.",
)
@search_options(
    time_limit_s=10.0,
    gap=1e-3,
    what="Of each search; then its best plan counts, with the gap that is proven.",
)
@json_option
def explain_command(
    strategy_path: Path | None,
    run_path: Path | None,
    picture: Path | None,
    trace: Path | None,
    more_memory: float,
    more_speed: float,
    more_loss: float,
    without_solving: bool,
    time_limit: float,
    gap: float,
    as_json: bool,
    **problem: Any,
) -> None:
    """Say what a plan takes, what binds it, and what a little more would bring.

    Each answer is a plan sought anew, with the gap that is proven of it; Ctrl-C ends
    the questions and keeps the answers. With --run, put a run beside its prediction.
    """
    if (strategy_path is None) == (run_path is None):
        msg = "expected either --strategy FILE or --run FILE"
        raise click.UsageError(msg)
    if run_path is not None:
        from llmpq_jax.cli.explained_run import explain_run

        explain_run(run_path, picture=picture, trace=trace, as_json=as_json)
        return
    if picture is not None or trace is not None:
        msg = "--picture and --trace are of a run: expected --run FILE beside them"
        raise click.UsageError(msg)
    assert strategy_path is not None
    from llmpq_jax.planner.whatif import More

    _explain_strategy(
        strategy_path,
        More(memory=more_memory / 100, speed=more_speed / 100, loss=more_loss / 100),
        without_solving=without_solving,
        time_limit_s=time_limit,
        relative_gap=gap,
        as_json=as_json,
        problem=problem,
    )


def _explain_strategy(
    strategy_path: Path,
    more: More,
    *,
    without_solving: bool,
    time_limit_s: float,
    relative_gap: float,
    as_json: bool,
    problem: dict[str, Any],
) -> None:
    from llmpq_jax.planner.instance.problem import make_problem
    from llmpq_jax.planner.whatif import (
        answer_scenarios,
        break_down,
        free_to_choose,
        incumbent_from_strategy,
        list_scenarios,
    )
    from llmpq_jax.report.console import progress_bar, say, show, tell
    from llmpq_jax.report.explanation import (
        answers_table,
        memory_table,
        plan_findings,
        seconds_table,
    )
    from llmpq_jax.report.explanation_record import explanation_json
    from llmpq_jax.report.search_progress import search_note
    from llmpq_jax.schema.strategy_file import read_strategy
    from llmpq_jax.tasks.planning_request import measurements_digest

    strategy = read_strategy(strategy_path)
    merged = merged_options(strategy_path, strategy, problem)
    if any(stage.mesh is not None for stage in strategy.stages):
        merged["tensor"] = "any"
    request = free_to_choose(
        request_with_choices(**merged, workload=strategy.workload), strategy
    )
    digest = measurements_digest(merged["measurements"])
    if strategy.provenance is not None and strategy.provenance.measurements != digest:
        tell("the measurements are not those that the plan was made with")
    made = make_problem(request)
    plan = incumbent_from_strategy(made, strategy)
    breakdown = break_down(made, plan, strategy)
    answers: list[Answer] = []
    if not without_solving:
        asked = list(list_scenarios(made, strategy, plan, more))
        with progress_bar("solving anew", len(asked), unit="questions") as advance:

            def tell_search(scenario: Scenario, state: Progress) -> None:
                advance(0, note=f"{scenario.text}: {search_note(state)}")

            found = answer_scenarios(
                asked,
                plan,
                time_limit_s=time_limit_s,
                relative_gap=relative_gap,
                progress=tell_search,
            )
            try:
                for answer in found:
                    answers.append(answer)
                    advance(1)
            except KeyboardInterrupt:
                tell("interrupted: the answers so far are kept")
    if as_json:
        say(explanation_json(strategy_path, made.source, breakdown, answers))
        return
    show(memory_table(breakdown, answers))
    show(seconds_table(breakdown))
    for line in plan_findings(breakdown, answers):
        say(line)
    if answers:
        show(answers_table(answers))
    basis = (
        "foretold from makers' figures" if made.source == "roofline" else "predicted"
    )
    say(f"seconds are {basis}; nothing was run")
