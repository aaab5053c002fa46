"""A plan or a run in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmpq_jax.report.names import gap_text
from llmpq_jax.schema.online_load import OnlinePrediction
from llmpq_jax.schema.strategy import Certificate, Quality, Strategy
from llmpq_jax.schema.workload import Workload
from llmpq_jax.units import counted, format_loss, format_seconds

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.run_record import BatchRecord


def plan_lines(strategy: Strategy, *, int8_omega: float | None = None) -> list[str]:
    """Returns a plan's predicted time and quality, and what is proven of it.

    Its Σω is compared with that of the model at 8 bits, unless that is None.
    """
    lines = workload_lines(strategy.workload)
    if (predicted := strategy.predicted) is not None:
        basis = "predicted"
        if predicted.source != "measured":
            basis += " from data-sheet figures; no device was measured"
        workload = strategy.workload
        phases = _phases(
            workload, workload.num_prompts, predicted.prefill_s, predicted.decode_s
        )
        lines.append(
            f"time         {' + '.join(phases)} = {format_seconds(predicted.latency_s)}, "
            f"{predicted.throughput_tokens_per_s:,.0f} tokens/s ({basis})"
        )
    if (online := strategy.online) is not None:
        lines.append(online_line(online))
    if (quality := strategy.quality) is not None:
        lines.append(_quality_line(quality, int8_omega))
        if quality.measured_ppl_increase is not None:
            lines.append(
                f"validation   perplexity {quality.measured_ppl_increase:+.4g}, KL "
                f"{quality.measured_kl:.3g} on {quality.validation_text} (measured)"
            )
    if strategy.certificate is not None:
        lines.append(_certificate_line(strategy.certificate))
    return lines


def online_line(online: OnlinePrediction) -> str:
    """Returns what a plan is predicted to do with requests that arrive at random."""
    return (
        f"online       {online.percentile:g} % of requests at {online.arrivals_per_s:g}/s: "
        f"first token within {format_seconds(online.ttft_s)}, then "
        f"{format_seconds(online.tpot_s)} a token; {format_seconds(online.request_s)} a "
        f"request on average, {online.busy_rows:.3g} at a time; up to "
        f"{online.max_arrivals_per_s:.3g}/s (simulated)"
    )


def workload_lines(workload: Workload) -> list[str]:
    """Returns the workload as a line, if prompts differ in length or may end early."""
    if workload.lengths is None and workload.output_length_fraction is None:
        return []
    prompts, tokens = workload.num_prompts, workload.expected_new_tokens
    line = (
        f"workload     {prompts:,} prompts, {workload.batch:,} at a time: memory for "
        f"prompts of {workload.prompt_length:,} and contexts of "
        f"{workload.context_length:,} tokens, time for {tokens / prompts:,.4g} new "
        "tokens a prompt on average"
    )
    if workload.output_length_fraction is not None:
        line += f" ({workload.output_length_fraction:g} of the maximum)"
    return [line]


def run_lines(strategy: Strategy, batches: Sequence[BatchRecord]) -> list[str]:
    """Returns a run's tokens and seconds, and the prediction for the planned workload."""
    workload, found = strategy.workload, strategy.predicted
    num_requests = max(batch.num_requests for batch in batches)
    total_s = sum(batch.latency_s for batch in batches)
    prefill_s = sum(batch.prefill_s for batch in batches)
    measured = _pace(
        sum(batch.num_new_tokens for batch in batches),
        sum(batch.num_requests for batch in batches),
        _phases(workload, num_requests, prefill_s, total_s - prefill_s),
        total_s,
    )
    lines = [f"measured     {measured}"]
    if found is not None:
        planned = _pace(
            workload.expected_new_tokens,
            workload.num_prompts,
            _phases(workload, workload.num_prompts, found.prefill_s, found.decode_s),
            found.latency_s,
        )
        line = f"predicted    {planned}, for the workload that was planned"
        if num_requests < workload.batch:
            line += (
                f"; to be compared only with a full batch: {counted(num_requests, 'prompt')} left "
                f"{workload.batch - num_requests:,} of its {workload.batch:,} rows empty"
            )
        lines.append(line)
    return lines


def _pace(
    num_tokens: int, num_prompts: int, phases: Sequence[str], total_s: float
) -> str:
    return (
        f"{counted(num_tokens, 'new token')} of {counted(num_prompts, 'prompt')} in "
        f"{format_seconds(total_s)} ({', '.join(phases)}): "
        f"{num_tokens / total_s:,.0f} tokens/s"
    )


def _phases(
    workload: Workload, num_prompts: int, prefill_s: float, decode_s: float
) -> tuple[str, str]:
    """Names the seconds until the first prompts have their first token, and the others."""
    prefill, decode = "prefill", "decode"
    if num_prompts > workload.batch:
        prefill += f" of the first {counted(workload.batch, 'prompt')}"
        decode += " and other prompts"
    return (
        f"{prefill} {format_seconds(prefill_s)}",
        f"{decode} {format_seconds(decode_s)}",
    )


def _quality_line(quality: Quality, int8_omega: float | None) -> str:
    line = f"quality      Σω = {format_loss(quality.omega)}"
    if int8_omega:
        ratio = quality.omega / int8_omega
        share = f"{ratio:.1%} of" if ratio < 2 else f"{ratio:.3g} times"
        line += f", {share} uniform int8's {format_loss(int8_omega)}"
    if quality.budget is not None:
        line += f", limited to {format_loss(quality.budget)}"
    line += f" (by {quality.method})"
    return f"{line}; {quality.note}" if quality.note else line


def _certificate_line(certificate: Certificate) -> str:
    proven = (
        "proven optimal"
        if certificate.gap <= 1e-6
        else f"proven within {gap_text(certificate.gap)} of the best"
    )
    return (
        f"certificate  {proven} over {certificate.covers} "
        f"({certificate.solver}, {format_seconds(certificate.seconds)})"
    )
