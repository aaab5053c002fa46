"""`llmpq-jax explain`: what a plan takes, what binds it, what a little more would bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options.option_group import (
    command,
    flag,
    option,
    option_group,
    option_record,
)
from llmpq_jax.cli.options.planner import ALL_WIDTHS, CHOICES, QUALITY, search_limits
from llmpq_jax.cli.options.problem import SOURCES, read_problem
from llmpq_jax.cli.options.shared import FILE, JSON, OUT_FILE
from llmpq_jax.schema.solve_request import SearchLimits

if TYPE_CHECKING:
    from llmpq_jax.tasks.explain import Explanation

_AS_SOLVED = "(default: as in the strategy's [request])"


@option_record
class SubjectOptions:
    """What is to be explained, as typed."""

    strategy_path: Path | None = option(
        "Strategy file, from `llmpq-jax solve` or written by hand.",
        FILE,
        name="--strategy",
    )
    run_path: Path | None = option(
        "Run record from `llmpq-jax generate --record`, to compare with its prediction "
        "instead.",
        FILE,
        name="--run",
    )
    picture: Path | None = option(
        "With --run: picture to draw of the times of every stage, predicted and "
        "measured (.png or .svg).",
        OUT_FILE,
    )
    trace: Path | None = option(
        "With --run: file for the same times as JSON for Perfetto or Chrome.", OUT_FILE
    )

    def __post_init__(self) -> None:
        if (self.strategy_path is None) == (self.run_path is None):
            msg = "expected either --strategy FILE or --run FILE"
            raise ValueError(msg)
        if self.run_path is None and (self.picture or self.trace) is not None:
            msg = "--picture and --trace are of a run: expected --run FILE with them"
            raise ValueError(msg)


def _more(what: str, default: float) -> Any:
    return option(
        f"How much more {what} to ask about.",
        click.FloatRange(min=0, max=1000),
        default=default,
        metavar="PERCENT",
    )


@option_record
class QuestionOptions:
    """What is asked about a plan, as typed."""

    more_memory: float = _more("memory of each device", 5.0)
    more_speed: float = _more("speed of each device", 10.0)
    more_loss: float = _more("quality loss", 5.0)
    without_solving: bool = flag(
        "Ask nothing: only take the plan apart, which needs no search."
    )


@command(
    "explain",
    option_group("What to explain", SubjectOptions, "subject"),
    SOURCES.without_defaults(f"{SOURCES.title} {_AS_SOLVED}"),
    CHOICES.without_defaults(f"{CHOICES.title} {_AS_SOLVED}"),
    QUALITY.only("omega_budget", "theta").without_defaults(
        f"{QUALITY.title} {_AS_SOLVED}"
    ),
    option_group("Questions", QuestionOptions, "questions"),
    search_limits(
        time_limit_s=10.0,
        gap=1e-3,
        help="Time for each search, after which its best plan is taken, with its "
        "proven gap.",
    ),
    as_json=JSON,
)
def explain_command(
    subject: SubjectOptions,
    model: Path | None,
    sources: dict[str, Any],
    choices: dict[str, Any],
    quality: dict[str, Any],
    questions: QuestionOptions,
    search: SearchLimits,
    as_json: bool,
) -> None:
    """Explain what a plan takes, what binds it, and what a little more would bring.

    Each answer is the result of a new search, with its proven gap. Ctrl-C ends the
    questions and keeps the answers. With --run, compare a run with its prediction.
    """
    if subject.run_path is not None:
        from llmpq_jax.cli.explained_run import explain_run

        explain_run(
            subject.run_path,
            picture=subject.picture,
            trace=subject.trace,
            as_json=as_json,
        )
        return
    assert subject.strategy_path is not None
    from llmpq_jax.planner.whatif import Increments
    from llmpq_jax.report.console import log
    from llmpq_jax.schema.record_files import read_strategy
    from llmpq_jax.tasks.explain import explain
    from llmpq_jax.tasks.planning_request import measurements_digest
    from llmpq_jax.tasks.recorded_request import recorded_request

    strategy = read_strategy(subject.strategy_path)
    if any(stage.mesh is not None for stage in strategy.stages):
        choices = choices | {"tensor": ALL_WIDTHS}
    try:
        request = recorded_request(
            subject.strategy_path,
            strategy,
            sources=sources,
            choices=choices,
            quality=quality,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    problem = read_problem(
        model or Path(strategy.model.path), strategy.workload, request
    )
    digest = measurements_digest(request.sources, problem.cluster)
    if strategy.provenance is not None and strategy.provenance.measurements != digest:
        log("the measurements are not those that the plan was made with")
    more = Increments(
        memory=questions.more_memory / 100,
        speed=questions.more_speed / 100,
        loss=questions.more_loss / 100,
    )
    limits = None if questions.without_solving else search
    explanation = explain(strategy, problem, more, limits)
    _print(subject.strategy_path, explanation, as_json=as_json)


def _print(path: Path, explanation: Explanation, *, as_json: bool) -> None:
    from llmpq_jax.report.console import print_line, print_table
    from llmpq_jax.report.explanation import (
        answers_table,
        memory_table,
        plan_findings,
        seconds_table,
    )
    from llmpq_jax.report.explanation_record import explanation_json

    source, breakdown = explanation.source, explanation.breakdown
    answers = explanation.answers
    if as_json:
        print_line(explanation_json(path, source, breakdown, answers))
        return
    print_table(memory_table(breakdown, answers))
    print_table(seconds_table(breakdown))
    for line in plan_findings(breakdown, answers):
        print_line(line)
    if answers:
        print_table(answers_table(answers))
    is_roofline = source == "roofline"
    basis = "predicted from data-sheet figures" if is_roofline else "predicted"
    print_line(f"seconds are {basis}; nothing was run")
