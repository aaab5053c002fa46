"""`llmpq-jax explain`: what a plan takes, what binds it, what a little more would bring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options.option_group import OptionGroup, command
from llmpq_jax.cli.options.planner import (
    ALL_WIDTHS,
    CHOICES,
    QUALITY,
    search_limits,
)
from llmpq_jax.cli.options.problem import SOURCES, read_problem
from llmpq_jax.cli.options.shared import FILE, JSON, OUT_FILE
from llmpq_jax.schema.solve_request import SearchLimits

if TYPE_CHECKING:
    from llmpq_jax.tasks.explain import Explanation

_AS_SOLVED = "(default: as in the strategy's [request])"


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectOptions:
    """What is to be explained, as typed; the options' help says what each means."""

    strategy_path: Path | None
    run_path: Path | None
    picture: Path | None
    trace: Path | None

    def __post_init__(self) -> None:
        if (self.strategy_path is None) == (self.run_path is None):
            msg = "expected either --strategy FILE or --run FILE"
            raise ValueError(msg)
        if self.run_path is None and (self.picture or self.trace) is not None:
            msg = "--picture and --trace are of a run: expected --run FILE with them"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionOptions:
    """What is asked about a plan, as typed; the options' help says what each means."""

    more_memory: float
    more_speed: float
    more_loss: float
    without_solving: bool


def _more(name: str, default: float, help: str) -> click.Option:
    return click.Option(
        [f"--more-{name}"],
        type=click.FloatRange(min=0, max=1000),
        default=default,
        show_default=True,
        metavar="PERCENT",
        help=help,
    )


@command(
    "explain",
    OptionGroup(
        title="What to explain",
        record=SubjectOptions,
        parameter="subject",
        options=(
            click.Option(
                ["--strategy", "strategy_path"],
                type=FILE,
                metavar="FILE",
                help="Strategy file, from `llmpq-jax solve` or written by hand.",
            ),
            click.Option(
                ["--run", "run_path"],
                type=FILE,
                metavar="FILE",
                help="Run record from `llmpq-jax generate --record`, to compare with its "
                "prediction instead.",
            ),
            click.Option(
                ["--picture"],
                type=OUT_FILE,
                metavar="FILE",
                help="With --run: picture to draw of the times of every stage, predicted and "
                "measured (.png or .svg).",
            ),
            click.Option(
                ["--trace"],
                type=OUT_FILE,
                metavar="FILE",
                help="With --run: file for the same times as JSON for Perfetto or Chrome.",
            ),
        ),
    ),
    SOURCES.without_defaults(f"{SOURCES.title} {_AS_SOLVED}"),
    CHOICES.without_defaults(f"{CHOICES.title} {_AS_SOLVED}"),
    QUALITY.only("omega_budget", "theta").without_defaults(
        f"{QUALITY.title} {_AS_SOLVED}"
    ),
    OptionGroup(
        title="Questions",
        record=QuestionOptions,
        parameter="questions",
        options=(
            _more("memory", 5.0, "How much more memory of each device to ask about."),
            _more("speed", 10.0, "How much more speed of each device to ask about."),
            _more("loss", 5.0, "How much more quality loss to ask about."),
            click.Option(
                ["--without-solving"],
                is_flag=True,
                help="Ask nothing: only take the plan apart, which needs no search.",
            ),
        ),
    ),
    search_limits(
        time_limit_s=10.0,
        gap=1e-3,
        help="Time for each search, after which its best plan is taken, with its "
        "proven gap.",
    ),
    JSON,
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
    from llmpq_jax.schema.strategy_file import read_strategy
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
    digest = measurements_digest(request.sources)
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
