"""`llmpq-jax solve`: from cluster, measurements and sensitivities to a strategy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.planner_options import (
    choice_options,
    request_with_choices,
    theta_option,
)
from llmpq_jax.cli.problem_options import planning_options
from llmpq_jax.cli.shared_options import (
    FILE,
    OUT_FILE,
    POSITIVE,
    cache_home,
    json_option,
    omega_budget_option,
    search_options,
    window_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmpq_jax.schema.strategy import Strategy

# Beside the request: what else decides whether plans that were judged may be compared.
_TOLD = ("kv_bits", "tensor", "prefill_micro_batch", "decode_micro_batch")


@click.command("solve")
@planning_options
@click.option(
    "--out", type=OUT_FILE, required=True, metavar="FILE", help="The strategy, as TOML."
)
@theta_option
@omega_budget_option
@click.option(
    "--max-ppl-increase",
    type=click.FloatRange(min=0, min_open=True),
    help="Perplexity may rise by so much at most, measured on the --validation-text text.",
)
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0, min_open=True),
    help="Mean KL divergence from 16 bits may be so much at most, in nats per token, "
    "measured likewise.",
)
@click.option(
    "--validation-text",
    type=FILE,
    metavar="FILE",
    help="UTF-8 text that the sensitivities never saw.",
)
@window_option
@click.option(
    "--validation-tokens",
    type=POSITIVE,
    help="Read of the validation text, spread over it; by default all.",
)
@click.option(
    "--validation-record",
    type=OUT_FILE,
    metavar="FILE",
    help="JSON lines of plans judged before: of those that keep the limit the fastest "
    "is taken.",
)
@choice_options
@search_options(
    time_limit_s=60.0,
    gap=1e-4,
    what="Then the best plan so far is written, with the gap that is proven.",
)
@json_option
def solve_command(
    out: Path,
    omega_budget: float | None,
    max_ppl_increase: float | None,
    max_kl: float | None,
    validation: Path | None,
    window: int,
    validation_tokens: int | None,
    validation_record: Path | None,
    time_limit: float,
    gap: float,
    as_json: bool,
    **problem: Any,
) -> None:
    """Plan cuts, bits and micro-batches together."""
    _check_limits(
        {
            "--omega-budget": omega_budget,
            "--max-ppl-increase": max_ppl_increase,
            "--max-kl": max_kl,
        },
        validation,
        wire_bits=problem["wire_bits"],
    )
    import datetime
    from dataclasses import replace

    from llmpq_jax import __version__
    from llmpq_jax.costmodel.quality import total_omega
    from llmpq_jax.planner import PlanRequest, plan
    from llmpq_jax.report.console import progress_bar
    from llmpq_jax.report.search_progress import note_teller, search_progress
    from llmpq_jax.schema.precision import Bits
    from llmpq_jax.schema.strategy import Provenance
    from llmpq_jax.schema.strategy_file import write_strategy
    from llmpq_jax.tasks.planning_request import measurements_digest

    request = request_with_choices(**problem, omega_budget=omega_budget)
    digest = measurements_digest(problem["measurements"])

    def solve(request: PlanRequest) -> Strategy:
        with progress_bar("solving", None, unit="cases") as advance:
            return plan(
                request,
                time_limit_s=time_limit,
                relative_gap=gap,
                progress=search_progress(advance),
                on_note=note_teller(advance),
            )

    if validation is None:
        strategy = solve(request)
    else:
        from llmpq_jax.schema.toml import to_toml
        from llmpq_jax.tasks.compile_cache import keep_compiled
        from llmpq_jax.tasks.solve import plan_under_limit
        from llmpq_jax.tasks.validation import Limit

        keep_compiled(cache_home())
        strategy = plan_under_limit(
            request,
            Limit(kind="perplexity", value=max_ppl_increase)
            if max_ppl_increase is not None
            else Limit(kind="kl", value=max_kl or 0.0),
            plan=solve,
            validation_path=validation,
            window=window,
            validation_tokens=validation_tokens,
            work=out.with_name(f".{out.name}.work"),
            record=validation_record,
            told=(
                *(digest, to_toml(request.cluster), to_toml(request.sensitivity)),
                *map(repr, (request.workload, request.bits, request.head_bits)),
                repr(request.pins),
                *(repr(problem[choice]) for choice in _TOLD),
            ),
        )
    provenance = Provenance(
        program=f"llmpq-jax {__version__}",
        command=command_as_typed(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        cluster=request.cluster.name,
        measurements=digest,
    )
    strategy = replace(strategy, provenance=provenance)
    write_strategy(out, strategy)
    uniform: tuple[Bits, ...] = (8,) * request.architecture.num_layers
    head_width = strategy.precision.head_bits
    int8_omega = total_omega(
        request.sensitivity,
        uniform,
        head_bits=head_width,
        kv_bits=strategy.precision.kv_bits,
    )
    used = {name for stage in strategy.stages for name in stage.devices}
    idle = [
        node_devices.name
        for node_devices in request.cluster.node_devices
        if node_devices.name not in used
    ]
    if as_json:
        _print_json(out, strategy, int8_omega, idle)
    else:
        _print(out, strategy, int8_omega, idle)


def _check_limits(
    limits: Mapping[str, float | None], validation: Path | None, *, wire_bits: str
) -> None:
    """Refuses limits on quality that do not go together.

    Raises:
        UsageError: They do not.
    """
    asked = [name for name, limit in limits.items() if limit is not None]
    if len(asked) > 1:
        *others, last = limits
        msg = f"expected one of {', '.join(others)} and {last}, found {' and '.join(asked)}"
        raise click.UsageError(msg)
    is_measured = bool(asked) and asked != ["--omega-budget"]
    if is_measured != (validation is not None):
        msg = "expected --validation-text with --max-ppl-increase or --max-kl, and only there"
        raise click.UsageError(msg)
    if validation is not None and wire_bits != "16":
        msg = f"--wire-bits {wire_bits} with --validation-text, which judges weights and cache alone: expected --wire-bits 16 there, or --omega-budget instead of a measured limit"
        raise click.UsageError(msg)


def _print(out: Path, strategy: Strategy, int8_omega: float, idle: list[str]) -> None:
    from llmpq_jax.report.console import say, show
    from llmpq_jax.report.lines import plan_lines
    from llmpq_jax.report.tables import plan_table

    show(plan_table(strategy))
    for line in plan_lines(strategy, int8_omega=int8_omega):
        say(line)
    if idle:
        say(f"idle         {', '.join(idle)}")
    say(f"written      {out}")


def _print_json(
    out: Path, strategy: Strategy, int8_omega: float, idle: list[str]
) -> None:
    import json
    import tomllib

    from llmpq_jax.report.console import say
    from llmpq_jax.schema.toml import to_toml

    values = {
        "out": str(out),
        "strategy": tomllib.loads(to_toml(strategy)),
        "omega_of_uniform_int8": int8_omega,
        "idle": idle,
    }
    say(json.dumps(values, indent=2))
