"""A plan or a run in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmpq_jax.schema.strategy import Certificate, Prediction, Quality, Strategy
from llmpq_jax.schema.workload import Workload
from llmpq_jax.units import format_seconds

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.run_record import BatchRecord


def plan_lines(strategy: Strategy, *, int8_omega: float | None = None) -> list[str]:
    """Returns a plan's predicted time and quality, and what is proven of it.

    Args:
        strategy: Plan to describe.
        int8_omega: Σω of the same model with all layers at 8 bits, to compare with;
            None to leave it out.
    """
    lines = workload_lines(strategy.workload)
    if (predicted := strategy.predicted) is not None:
        lines.append(
            f"time         prefill {format_seconds(predicted.prefill_s)} + decode "
            f"{format_seconds(predicted.decode_s)} = "
            f"{format_seconds(predicted.latency_s)}, "
            f"{predicted.throughput_tokens_per_s:,.0f} tokens/s ({_basis(predicted)})"
        )
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
    """Returns a run's tokens and seconds, and the prediction for a full batch."""
    num_tokens = sum(batch.num_new_tokens for batch in batches)
    total_s = sum(batch.latency_s for batch in batches)
    prefill_s = sum(batch.prefill_s for batch in batches)
    lines = [
        f"measured     {num_tokens:,} new tokens in {format_seconds(total_s)} "
        f"(prefill {format_seconds(prefill_s)}, decode "
        f"{format_seconds(total_s - prefill_s)}): {num_tokens / total_s:,.0f} tokens/s"
    ]
    if (predicted := strategy.predicted) is not None:
        planned = strategy.workload.expected_new_tokens
        lines.append(
            f"predicted    {planned:,} new tokens in "
            f"{format_seconds(predicted.latency_s)} "
            f"(prefill {format_seconds(predicted.prefill_s)}, decode "
            f"{format_seconds(predicted.decode_s)}): "
            f"{predicted.throughput_tokens_per_s:,.0f} tokens/s, "
            "for the batch it was planned for"
        )
    return lines


def _basis(predicted: Prediction) -> str:
    if predicted.source == "measured":
        return "predicted"
    return "predicted from data-sheet figures; no device was measured"


def _quality_line(quality: Quality, int8_omega: float | None) -> str:
    line = f"quality      Σω = {quality.omega:.4g}"
    if int8_omega:
        ratio = quality.omega / int8_omega
        share = f"{ratio:.1%} of" if ratio < 2 else f"{ratio:.3g} times"
        line += f", {share} uniform int8's {int8_omega:.4g}"
    if quality.budget is not None:
        line += f", limited to {quality.budget:.4g}"
    line += f" (by {quality.method})"
    return f"{line}; {quality.note}" if quality.note else line


def _certificate_line(certificate: Certificate) -> str:
    proven = (
        "proven optimal"
        if certificate.gap <= 1e-6
        else f"proven within {certificate.gap:.2%} of the best"
    )
    return (
        f"certificate  {proven} over {certificate.covers} "
        f"({certificate.solver}, {format_seconds(certificate.seconds)})"
    )
