"""`llmpq-jax solve`: from cluster, measurements and sensitivities to a strategy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options import (
    FILE,
    GROUP_SIZES,
    KV_BITS,
    OUT_FILE,
    POSITIVE,
    cache_home,
    cluster_option,
    json_option,
    kv_bits_option,
    model_option,
    window_option,
)

if TYPE_CHECKING:
    from llmpq_jax.spec.measurements import Measurements
    from llmpq_jax.spec.strategy import Strategy


@click.command("solve")
@model_option
@cluster_option
@click.option(
    "--measurements",
    type=FILE,
    metavar="FILE",
    help="What `llmpq-jax profile` wrote.",
)
@click.option(
    "--roofline",
    is_flag=True,
    help="Instead of measurements, foretell seconds from makers' figures of the "
    "cluster's kinds of device; config.json alone will do for the model.",
)
@click.option("--batch", type=POSITIVE, required=True, help="Prompts served together.")
@click.option(
    "--prompt-length",
    type=POSITIVE,
    required=True,
    help="Tokens of the longest prompt.",
)
@click.option(
    "--new-tokens",
    type=POSITIVE,
    required=True,
    help="Tokens generated for each prompt at most.",
)
@click.option(
    "--out", type=OUT_FILE, required=True, metavar="FILE", help="The strategy, as TOML."
)
@click.option(
    "--sensitivity",
    type=FILE,
    metavar="FILE",
    help="Quality loss of each layer at each precision; without it, the variance of "
    "each layer's weights is taken.",
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
@kv_bits_option
@click.option(
    "--prefill-micro-batch",
    type=POSITIVE,
    help="Pin the prompts of a prefill micro-batch.",
)
@click.option(
    "--decode-micro-batch", type=POSITIVE, help="Pin the rows of a decode micro-batch."
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
    model: Path,
    cluster: Path,
    measurements: Path | None,
    roofline: bool,
    batch: int,
    prompt_length: int,
    new_tokens: int,
    out: Path,
    sensitivity: Path | None,
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
    prefill_micro_batch: int | None,
    decode_micro_batch: int | None,
    time_limit: float,
    gap: float,
    as_json: bool,
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
    import datetime
    import hashlib
    from dataclasses import replace

    from llmpq_jax import __version__
    from llmpq_jax.checkpoint.check import plannable_bits
    from llmpq_jax.checkpoint.reader import CheckpointReader
    from llmpq_jax.cost.quality import total_omega
    from llmpq_jax.report.console import progress_bar, tell
    from llmpq_jax.report.search import search_progress
    from llmpq_jax.solver import PlanRequest, plan
    from llmpq_jax.spec.cluster_file import read_cluster
    from llmpq_jax.spec.families import read_architecture
    from llmpq_jax.spec.fingerprint import has_weights, model_fingerprint
    from llmpq_jax.spec.measurements_file import (
        check_measurements,
        read_measurements,
    )
    from llmpq_jax.spec.precision import ALL_BITS, Bits
    from llmpq_jax.spec.sensitivity_file import read_sensitivity
    from llmpq_jax.spec.strategy import ModelReference, Provenance
    from llmpq_jax.spec.strategy_file import write_strategy
    from llmpq_jax.spec.workload import Workload
    from llmpq_jax.workflow.what_if import (
        catalogue_digest,
        config_alone,
        foretold_measurements,
    )

    if roofline == (measurements is not None):
        msg = "give either --measurements FILE or --roofline"
        raise click.UsageError(msg)
    architecture = read_architecture(model)
    devices = read_cluster(cluster)
    workload = Workload(batch=batch, prompt_length=prompt_length, new_tokens=new_tokens)
    if measurements is None:
        measured = foretold_measurements(
            model,
            architecture,
            devices,
            workload,
            prefill=prefill_micro_batch,
            decode=decode_micro_batch,
        )
        digest = catalogue_digest()
        tell("--roofline: seconds are foretold from makers' figures, not measured")
    else:
        measured = read_measurements(measurements)
        check_measurements(measured, architecture)
        digest = f"sha256:{hashlib.sha256(measurements.read_bytes()).hexdigest()}"
    head_widths = {"8": (8,), "16": (16,), "any": (16, 8)}[head_bits]
    allowed = ALL_BITS
    if roofline and not has_weights(model):
        reference, judged = config_alone(
            model, architecture, group_size=measured.group_size
        )
        tell(f"no weights in {model}: all layers count as equally sensitive")
    else:
        reference = ModelReference(
            path=str(model),
            architecture=architecture.family,
            num_layers=architecture.num_layers,
            fingerprint=model_fingerprint(model),
        )
        judged = None
        reader = CheckpointReader(model)
        allowed = plannable_bits(reader, architecture, head=head_widths[0])
    if sensitivity is not None:
        judged = read_sensitivity(sensitivity)
    elif judged is None:
        from llmpq_jax.indicator.weight_variance import weight_variance

        tell("no --sensitivity: judging layers by the variance of their weights alone")
        judged = weight_variance(model, group_size=measured.group_size)
    try:
        request = PlanRequest(
            architecture=architecture,
            model=replace(reference, rounded=judged.rounded),
            cluster=devices,
            measurements=measured,
            sensitivity=judged,
            workload=workload,
            activations=measured.activations,
            group_size=_group_size(measured),
            bits=tuple(bits for bits in allowed if bits >= int(min_bits)),
            head_bits=head_widths,
            kv_bits=KV_BITS[kv_bits],
            omega_budget=omega_budget,
            theta=theta,
            prefill=prefill_micro_batch,
            decode=decode_micro_batch,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error

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
                *(digest, to_toml(devices), to_toml(judged)),
                *map(repr, (request.workload, request.bits, request.head_bits)),
                *map(repr, (kv_bits, prefill_micro_batch, decode_micro_batch)),
            ),
        )
    provenance = Provenance(
        program=f"llmpq-jax {__version__}",
        command=command_as_typed(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        cluster=devices.name,
        measurements=digest,
    )
    strategy = replace(strategy, provenance=provenance)
    write_strategy(out, strategy)
    uniform: tuple[Bits, ...] = (8,) * architecture.num_layers
    head_width = strategy.precision.head_bits
    int8_omega = total_omega(judged, uniform, head_bits=head_width)
    used = {name for stage in strategy.stages for name in stage.devices}
    idle = [placed.name for placed in devices.placed if placed.name not in used]
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


def _group_size(measurements: Measurements) -> Literal[32, 64, 128]:
    from llmpq_jax.errors import MeasurementError

    if measurements.group_size not in GROUP_SIZES:
        msg = f"measurements of {measurements.model}: group_size is {measurements.group_size}: expected one of {list(GROUP_SIZES)}; run `llmpq-jax profile` again"
        raise MeasurementError(msg)
    return GROUP_SIZES[measurements.group_size]
