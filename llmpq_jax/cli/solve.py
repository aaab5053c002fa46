"""`llmpq-jax solve`: from cluster, measurements and sensitivities to a strategy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options import (
    FILE,
    OUT_FILE,
    POSITIVE,
    cache_home,
    json_option,
    window_option,
)
from llmpq_jax.cli.planning import planning_options, request_as_typed

if TYPE_CHECKING:
    from llmpq_jax.spec.strategy import Strategy


EIGHT_OR_SIXTEEN: dict[str, tuple[Literal[8, 16], ...]] = {
    "8": (8,),
    "16": (16,),
    "any": (16, 8),
}
WIDTHS: dict[str, tuple[int, ...]] = {"1": (1,), "any": (1, 2, 4, 8)}


@click.command("solve")
@planning_options
@click.option(
    "--out", type=OUT_FILE, required=True, metavar="FILE", help="The strategy, as TOML."
)
@click.option(
    "--theta",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds that a unit of quality loss is worth.",
)
@click.option(
    "--omega-budget",
    type=click.FloatRange(min=0),
    help="Quality loss summed over the layers may not exceed it; by default that of "
    "uniform int8.",
)
@click.option(
    "--max-ppl-increase",
    type=click.FloatRange(min=0, min_open=True),
    help="Perplexity may rise by so much at most, measured on the --gate text.",
)
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0, min_open=True),
    help="Mean KL divergence from 16 bits may be so much at most, in nats per token, "
    "measured likewise.",
)
@click.option(
    "--gate",
    type=FILE,
    metavar="FILE",
    help="UTF-8 text that the sensitivities never saw.",
)
@window_option
@click.option(
    "--gate-tokens",
    type=POSITIVE,
    help="Read of the gate text, spread over it; by default all.",
)
@click.option(
    "--gate-record",
    type=OUT_FILE,
    metavar="FILE",
    help="JSON lines of plans judged before: of those that keep the limit the fastest "
    "is taken.",
)
@click.option(
    "--min-bits",
    type=click.Choice(["4", "8", "16"]),
    default="4",
    show_default=True,
    help="The least precision a layer may have.",
)
@click.option(
    "--head-bits",
    type=click.Choice(["8", "16", "any"]),
    default="16",
    show_default=True,
    help="Precision of the output head; any lets the planner choose.",
)
@click.option(
    "--kv-bits",
    type=click.Choice(["8", "16", "any"]),
    default="16",
    show_default=True,
    help="Precision of the cache of keys and values, 16 being the activations' type; "
    "any lets the planner choose among those that were measured.",
)
@click.option(
    "--wire-bits",
    type=click.Choice(["8", "16", "any"]),
    default="16",
    show_default=True,
    help="Precision of the hidden states that a stage hands on, 16 being the "
    "activations' type; any lets the planner choose for each hop.",
)
@click.option(
    "--tensor",
    type=click.Choice(["1", "any"]),
    default="1",
    show_default=True,
    help="Devices that hold a stage together: one, or as many equal ones of a node as "
    "the planner chooses among the widths that were measured (with --roofline, 2, 4 and 8).",
)
@click.option(
    "--prefill-micro-batch",
    type=POSITIVE,
    help="Pin the prompts of a prefill micro-batch.",
)
@click.option(
    "--decode-micro-batch", type=POSITIVE, help="Pin the rows of a decode micro-batch."
)
@click.option(
    "--pin-layers",
    multiple=True,
    metavar="FIRST:END=DEVICE",
    help="Layers from FIRST up to but without END lie on that device, such as "
    "0:12=node0/cuda:0; may be given several times, as the next three.",
)
@click.option(
    "--pin-bits",
    multiple=True,
    metavar="FIRST:END=BITS",
    help="Layers from FIRST up to but without END have so many bits, such as 0:2=16.",
)
@click.option(
    "--use",
    multiple=True,
    metavar="DEVICE",
    help="This device may not stay idle, whatever the cluster file says.",
)
@click.option(
    "--leave-idle", multiple=True, metavar="DEVICE", help="This device stays idle."
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Then the best plan so far is written, with the gap that is proven.",
)
@click.option(
    "--gap",
    type=click.FloatRange(min=0),
    default=1e-4,
    show_default=True,
    help="Relative gap at which a plan counts as the best.",
)
@json_option
def solve_command(
    out: Path,
    theta: float,
    omega_budget: float | None,
    max_ppl_increase: float | None,
    max_kl: float | None,
    gate: Path | None,
    window: int,
    gate_tokens: int | None,
    gate_record: Path | None,
    min_bits: str,
    head_bits: str,
    kv_bits: str,
    wire_bits: str,
    tensor: str,
    prefill_micro_batch: int | None,
    decode_micro_batch: int | None,
    pin_layers: tuple[str, ...],
    pin_bits: tuple[str, ...],
    use: tuple[str, ...],
    leave_idle: tuple[str, ...],
    time_limit: float,
    gap: float,
    as_json: bool,
    **problem: Any,
) -> None:
    """Plan cuts, bits and micro-batches together."""
    limits = [each for each in (omega_budget, max_ppl_increase, max_kl) if each]
    if len(limits) > 1:
        msg = "expected one of --omega-budget, --max-ppl-increase and --max-kl"
        raise click.UsageError(msg)
    is_measured = max_ppl_increase is not None or max_kl is not None
    if is_measured != (gate is not None):
        msg = "expected --gate with --max-ppl-increase or --max-kl, and only there"
        raise click.UsageError(msg)
    if gate is not None and wire_bits != "16":
        msg = f"--wire-bits {wire_bits} with --gate, which judges weights and cache alone: expected --wire-bits 16 there, or --omega-budget instead of a measured limit"
        raise click.UsageError(msg)
    import datetime
    from dataclasses import replace

    from llmpq_jax import __version__
    from llmpq_jax.cli.pins import read_pins, read_uses
    from llmpq_jax.cost.quality import total_omega
    from llmpq_jax.report.console import progress_bar
    from llmpq_jax.report.search import search_progress
    from llmpq_jax.solver import PlanRequest, plan
    from llmpq_jax.spec.precision import Bits
    from llmpq_jax.spec.strategy import Provenance
    from llmpq_jax.spec.strategy_file import write_strategy
    from llmpq_jax.workflow.planning import measurements_digest

    try:
        request = request_as_typed(
            **problem,
            head_bits=EIGHT_OR_SIXTEEN[head_bits],
            prefill=prefill_micro_batch,
            decode=decode_micro_batch,
            tensor=WIDTHS[tensor],
            uses=read_uses(always=use, never=leave_idle),
        )
        request = replace(
            request,
            bits=tuple(bits for bits in request.bits if bits >= int(min_bits)),
            kv_bits=EIGHT_OR_SIXTEEN[kv_bits],
            wire_bits=EIGHT_OR_SIXTEEN[wire_bits],
            omega_budget=omega_budget,
            theta=theta,
            pins=read_pins(layers=pin_layers, bits=pin_bits),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    digest = measurements_digest(problem["measurements"])

    def solve(request: PlanRequest) -> Strategy:
        with progress_bar("solving", None, unit="cases") as advance:
            return plan(
                request,
                time_limit_s=time_limit,
                relative_gap=gap,
                progress=search_progress(advance),
            )

    if gate is None:
        strategy = solve(request)
    else:
        from llmpq_jax.spec._toml import to_toml
        from llmpq_jax.workflow.compile_cache import keep_compiled
        from llmpq_jax.workflow.gate import Limit
        from llmpq_jax.workflow.quality_budget import plan_under_limit

        keep_compiled(cache_home())
        strategy = plan_under_limit(
            request,
            Limit(kind="perplexity", value=max_ppl_increase)
            if max_ppl_increase is not None
            else Limit(kind="kl", value=max_kl or 0.0),
            plan=solve,
            gate_path=gate,
            window=window,
            gate_tokens=gate_tokens,
            work=out.with_name(f".{out.name}.work"),
            record=gate_record,
            told=(
                *(digest, to_toml(request.cluster), to_toml(request.sensitivity)),
                *map(repr, (request.workload, request.bits, request.head_bits)),
                repr(request.pins),
                *map(repr, (kv_bits, tensor, prefill_micro_batch, decode_micro_batch)),
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
    idle = [placed.name for placed in request.cluster.placed if placed.name not in used]
    if as_json:
        _print_json(out, strategy, int8_omega, idle)
    else:
        _print(out, strategy, int8_omega, idle)


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
    from llmpq_jax.spec._toml import to_toml

    values = {
        "out": str(out),
        "strategy": tomllib.loads(to_toml(strategy)),
        "omega_of_uniform_int8": int8_omega,
        "idle": idle,
    }
    say(json.dumps(values, indent=2))
