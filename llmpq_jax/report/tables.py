"""Plans, runs, measurements, machines and quantised checkpoints as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, median
from typing import TYPE_CHECKING

from llmpq_jax.report.names import bits_text, devices_text, layers_text
from llmpq_jax.report.table_style import ReportTable, arrow, known, new_table
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import LayerTime, Measurements
from llmpq_jax.schema.strategy import Stage, Strategy
from llmpq_jax.units import counted, format_bytes, format_loss, format_seconds

if TYPE_CHECKING:
    from llmpq_jax.checkpoint.writer import WrittenModule
    from llmpq_jax.runtime.analysis.run_record import BatchRecord

# Columns that identify a measured layer.
_LAYER = ("kind", "phase", "bits", "KV", "over")


def plan_table(strategy: Strategy) -> ReportTable:
    """Shows the layers of each stage and its predicted memory and seconds."""
    table = new_table(
        "The plan: one row per stage, in pipeline order",
        *("device", "layers", "bits"),
        right=("memory of allowed", "prefill", "decode"),
    )
    for stage in strategy.stages:
        predicted = stage.predicted
        table.add_row(
            *_placement(stage),
            known(predicted, lambda p: _of(p.memory_bytes, p.allowed_bytes)),
            known(predicted and predicted.prefill_s, format_seconds),
            known(predicted and predicted.decode_s, format_seconds),
        )
    prefill, decode = strategy.micro_batch.prefill, strategy.micro_batch.decode
    table.caption = (
        "predicted seconds of one micro-batch: "
        f"{counted(prefill, 'prompt')} in prefill, "
        f"one step of {counted(decode, 'sequence')} in decode"
    )
    return table


def neighbours_table(plans: Sequence[Strategy], chosen: Strategy) -> ReportTable:
    """Shows what less loss of quality would cost, and what more would bring."""
    table = new_table(
        "Plans of less and of more loss; --omega-budget asks for them",
        *("", "bits of layers"),
        right=("Σω", "latency", "tokens/s"),
        identified_by=("", "bits of layers"),
    )
    for plan in plans:
        counts = Counter(plan.bits)
        predicted, quality = plan.predicted, plan.quality
        table.add_row(
            "this plan" if plan is chosen else "",
            ", ".join(f"{counts[bits]} at {bits}" for bits in sorted(counts)),
            known(quality and quality.omega, format_loss),
            known(predicted and predicted.latency_s, format_seconds),
            known(predicted, lambda p: f"{p.throughput_tokens_per_s:,.4g}"),
        )
    return table


def run_table(strategy: Strategy, batches: Sequence[BatchRecord]) -> ReportTable:
    """Compares measured with predicted numbers of each stage.

    Predicted memory is all that the plan counts; measured memory is weights and caches,
    without the temporary memory of a running program.
    """
    table = new_table(
        "The run: predicted → measured, one row per stage",
        *("device", "layers", "bits"),
        right=("memory of allowed", "prefill", "decode", "busy"),
    )
    total_s = sum(batch.latency_s for batch in batches)
    for number, stage in enumerate(strategy.stages):
        times = [batch.stages[number] for batch in batches]
        predicted = stage.predicted
        held = max(time.memory_bytes for time in times)
        decode = [time.decode_s for time in times if time.decode_s > 0]
        table.add_row(
            *_placement(stage),
            format_bytes(held)
            if predicted is None
            else _of(held, predicted.allowed_bytes),
            arrow(
                predicted and predicted.prefill_s,
                fmean(time.prefill_s for time in times),
                format_seconds,
            ),
            arrow(
                predicted and predicted.decode_s,
                fmean(decode) if decode else None,
                format_seconds,
            ),
            f"{sum(time.busy_s for time in times) / total_s:.0%}",
        )
    table.caption = (
        "memory held by weights and caches; seconds of one micro-batch, predicted for the "
        "planned sizes; "
        "busy: fraction of the run during which the stage computed"
    )
    return table


def measurements_table(measurements: Measurements) -> ReportTable:
    """Shows the median layer of each kind of device, by phase and bits."""
    table = new_table(
        "One layer, median over the measured batches and lengths",
        *("kind", "phase"),
        right=("bits", "KV", "over", "median", "fastest", "slowest", "spread"),
        identified_by=_LAYER,
    )

    def key(row: LayerTime) -> tuple[str, str, int, int, int]:
        return row.kind, row.phase, -row.bits, -row.kv_bits, row.tensor

    for (kind, phase, bits, kv_bits, tensor), rows in groupby(
        sorted(measurements.layers, key=key), key
    ):
        group = list(rows)
        seconds = [row.seconds for row in group]
        table.add_row(
            *(kind, phase, str(-bits), str(-kv_bits), str(tensor)),
            *(format_seconds(pick(seconds)) for pick in (median, min, max)),
            f"± {median(row.spread for row in group):.1%}",
        )
    table.caption = (
        "over: number of devices that share the layer; fastest and slowest: over the "
        "grid; "
        "spread: of repeated runs"
    )
    return table


def accuracy_table(measurements: Measurements) -> ReportTable:
    """Shows the error of predicted layers at sizes that were left out of the fit."""
    table = new_table(
        "One layer, predicted at sizes that were left out of the fit",
        *("kind", "phase"),
        right=(
            "bits",
            "KV",
            "over",
            "fitted to",
            "left out",
            "error",
            "largest",
            "spread",
        ),
        identified_by=_LAYER,
    )
    # The last row of a layer replaces earlier ones.
    latest = {
        (row.kind, row.phase, -row.bits, -row.kv_bits, row.tensor): row
        for row in measurements.accuracy
    }
    for _, row in sorted(latest.items()):
        table.add_row(
            *(row.kind, row.phase, str(row.bits), str(row.kv_bits), str(row.tensor)),
            *(str(row.num_fitted), str(row.num_held_out)),
            *(f"{row.mean_error:.1%}", f"{row.largest_error:.1%}"),
            f"± {row.spread:.1%}",
        )
    table.caption = (
        "error: mean of |predicted / measured − 1|; spread: of repeated runs"
    )
    return table


def machine_table(cluster: Cluster) -> ReportTable:
    """Shows the memory of each device, and below it cores and links."""
    table = new_table(
        "Devices of this machine: one row per device",
        *("device", "kind"),
        right=("memory", "reserved"),
    )
    for node_device in cluster.node_devices:
        device = node_device.device
        sizes = map(format_bytes, (device.memory_bytes, device.reserve_bytes))
        table.add_row(node_device.name, device.kind, *sizes)
    lines = [f"{node.name}: {node.cores} cores" for node in cluster.nodes if node.cores]
    lines += [
        f"{' – '.join(dict.fromkeys(link.between))}: "
        f"{format_bytes(link.bandwidth_bytes_per_s)}/s after "
        f"{format_seconds(link.latency_s)}, the slowest link between two devices"
        for link in cluster.links
    ]
    table.caption = "\n".join(lines)
    return table


def written_table(parts: Sequence[WrittenModule]) -> ReportTable:
    """Shows bytes before and after, of embedding, head and the layers of each precision."""
    table = new_table(
        "The checkpoint: bytes before and after",
        "",
        right=("bits", "before", "after"),
        identified_by=("", "bits"),
    )
    order = ("embedding", "layer", "head")

    def key(part: WrittenModule) -> tuple[int, int]:
        return order.index(part.kind), -part.bits

    def sizes(parts: Sequence[WrittenModule]) -> tuple[int, int]:
        before = sum(part.bytes_before for part in parts)
        return before, sum(part.bytes_after for part in parts)

    for (kind, bits), group in groupby(sorted(parts, key=key), key):
        own = list(group)
        name = counted(len(own), "layer") if order[kind] == "layer" else order[kind]
        table.add_row(name, str(-bits), *map(format_bytes, sizes(own)))
    before, after = sizes(parts)
    table.add_section()
    table.add_row("total", "", format_bytes(before), format_bytes(after))
    table.caption = f"{after / before:.1%} of the weights' bytes"
    return table


def _placement(stage: Stage) -> tuple[str, str, str]:
    return devices_text(stage), layers_text(stage), bits_text(stage.bits)


def _of(used_bytes: int, allowed_bytes: int) -> str:
    return f"{format_bytes(used_bytes)} of {format_bytes(allowed_bytes)}"
