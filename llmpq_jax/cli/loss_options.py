"""Options that say what becomes of a run whose worker or device is lost."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.planner_options import request_with_choices
from llmpq_jax.cli.shared_options import FILE, with_options

if TYPE_CHECKING:
    from llmpq_jax.batch.results_file import ResultsFile
    from llmpq_jax.schema.strategy import Strategy
    from llmpq_jax.tasks.replan import Resolver

OnLoss = Literal["restart", "resolve", "stop"]

loss_options = with_options(
    click.option(
        "--on-loss",
        type=click.Choice(["restart", "resolve", "stop"]),
        default="restart",
        show_default=True,
        help="Under Ray, when a worker is lost. restart: it is started again, and the "
        "run ends if that cannot be. resolve: then the plan is solved again without the "
        "devices that are gone, as it was solved before. stop: the run ends at once.",
    ),
    click.option(
        "--restart-unfinished",
        is_flag=True,
        help="After --on-loss resolve, start requests again that have not ended; "
        "otherwise they keep their tokens and go on.",
    ),
    *(
        click.option(
            f"--{name}",
            type=FILE,
            metavar="FILE",
            help=f"For --on-loss resolve, if not the {what} that the strategy was solved "
            "with.",
        )
        for name, what in (
            ("cluster", "cluster"),
            ("measurements", "measurements"),
            ("sensitivity", "sensitivities"),
        )
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOptions:
    """The options as typed; see their help.

    Attributes:
        on_loss: What is done.
        restart_unfinished: Whether requests that were begun start again.
        cluster: Its file.
        measurements: Their file.
        sensitivity: Its file.
    """

    on_loss: OnLoss
    restart_unfinished: bool
    cluster: Path | None
    measurements: Path | None
    sensitivity: Path | None

    def check(self, *, engine: str, out: Path | None) -> None:
        """Refuses options that ask for nothing.

        Raises:
            UsageError: They do.
        """
        if self.on_loss != "restart" and engine != "ray":
            msg = f"--on-loss {self.on_loss} is for --engine ray: expected both or neither"
            raise click.UsageError(msg)
        if self.on_loss == "resolve":
            if out is None:
                msg = "--on-loss resolve writes the new plan beside the results: expected --out"
                raise click.UsageError(msg)
            return
        typed = {
            "--restart-unfinished": self.restart_unfinished,
            "--cluster": self.cluster,
            "--measurements": self.measurements,
            "--sensitivity": self.sensitivity,
        }
        for name, value in typed.items():
            if value:
                msg = f"{name} is for --on-loss resolve: expected both or neither"
                raise click.UsageError(msg)


def resolver(
    options: LossOptions, strategy: Strategy, *, out: Path, results: ResultsFile
) -> Resolver:
    """Returns what solves again as a strategy was solved, its choices and limits kept.

    All that is needed then is read now: a job of hours does not end for want of a file.

    Args:
        options: As typed.
        strategy: That is run.
        out: File of the results, beside which new plans are written.
        results: The same, open, whose job notes new plans.

    Raises:
        LlmpqError: A file cannot be read, is not there, or is of another model.
        UsageError: The strategy does not say how it was solved, and no option does.
    """
    from dataclasses import replace

    from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
    from llmpq_jax.batch.manifest import plan_path
    from llmpq_jax.report.console import tell
    from llmpq_jax.schema.strategy_file import write_strategy
    from llmpq_jax.tasks.planning_request import measurements_digest
    from llmpq_jax.tasks.replan import Resolver

    typed = _solve_as_typed(options, strategy)
    search = {name: typed.pop(name) for name in ("time_limit", "gap")}
    is_validated = typed.pop("max_ppl_increase") or typed.pop("max_kl")
    for name in _WITHOUT_USE:
        typed.pop(name, None)
    request = request_with_choices(**typed, workload=strategy.workload)
    if is_validated and strategy.quality is not None:
        # What kept the limit when it was measured; it is not measured again.
        request = replace(request, omega_budget=strategy.quality.budget)

    def on_plan(found: Strategy) -> None:
        fingerprint = strategy_fingerprint(found)
        path = plan_path(out, fingerprint)
        write_strategy(path, found)
        results.add_strategy(fingerprint)
        tell(f"going on with the plan {plan_name(fingerprint)}, written to {path}")

    return Resolver(
        request,
        command=command_as_typed(),
        measurements=measurements_digest(typed["measurements"]),
        time_limit_s=search["time_limit"],
        relative_gap=search["gap"],
        on_plan=on_plan,
    )


# Of `solve`: about its output, its workload, which the strategy has, and what it measures.
_WITHOUT_USE = (
    "out",
    "as_json",
    "batch",
    "prompt_length",
    "new_tokens",
    "prompts",
    "output_length_fraction",
    "max_kl",
    "validation_text",
    "window",
    "validation_tokens",
    "validation_record",
)


def _solve_as_typed(options: LossOptions, strategy: Strategy) -> dict[str, Any]:
    """Returns the parameters of the `solve` that made a strategy, as options override them."""
    from llmpq_jax.cli.solve import solve_command

    provenance = strategy.provenance
    words = shlex.split(provenance.command) if provenance is not None else []
    words = words[words.index("solve") + 1 :] if "solve" in words[:3] else []
    words += ["--model", strategy.model.path, "--out", "strategy.toml"]
    if options.cluster is not None:
        words += ["--cluster", str(options.cluster)]
    if "--cluster" not in words or (
        options.measurements is None
        and not {"--measurements", "--roofline"} & set(words)
    ):
        msg = "--on-loss resolve: the strategy does not say how it was solved: expected --cluster and --measurements"
        raise click.UsageError(msg)
    typed = solve_command.make_context("solve", words).params
    for name in ("measurements", "sensitivity"):
        if getattr(options, name) is not None:
            typed[name] = getattr(options, name)
    if options.measurements is not None:
        typed["roofline"] = False
    for name in ("cluster", "measurements", "sensitivity"):
        if typed[name] is not None and not typed[name].exists():
            msg = f"--on-loss resolve: {typed[name]} is not there, with which the strategy was solved: expected it, to solve again; name it by --{name}"
            raise click.UsageError(msg)
    _check_measurements(options, strategy, typed["measurements"])
    return typed


def _check_measurements(
    options: LossOptions, strategy: Strategy, found: Path | None
) -> None:
    """Refuses measurements that have changed since, unless they are asked for by name.

    Raises:
        MeasurementError: They have.
    """
    from llmpq_jax.errors import MeasurementError
    from llmpq_jax.tasks.planning_request import measurements_digest

    if options.measurements is not None or strategy.provenance is None:
        return
    if found is not None and (
        measurements_digest(found) != strategy.provenance.measurements
    ):
        msg = f"measurements {found}: are not those that the strategy was solved with: expected them unchanged; name these or others by --measurements"
        raise MeasurementError(msg)
