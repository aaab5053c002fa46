"""Calibrates measurements by a run, so that the next plan predicts what happened."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import strategy_fingerprint
from llmpq_jax.costmodel.latency import LatencyModel, fit_latency
from llmpq_jax.costmodel.micro_batch_latency import MicroBatchShape, micro_batch_s
from llmpq_jax.costmodel.pipeline_schedule import node_serial_fraction
from llmpq_jax.errors import MeasurementError
from llmpq_jax.runtime.analysis.run_file import RecordedRun, read_run
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.runtime.analysis.uncontended import uncontended_seconds
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import (
    PHASES,
    LinkTime,
    Measurements,
    Observed,
    Phase,
)
from llmpq_jax.schema.measurements_file import (
    finished_text,
    read_measurements,
    row_text,
    with_row,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.hop_times import hop_times, notes_on_links
from llmpq_jax.tasks.run_checks import check_batch, check_model, first_devices

# Fewer show a passing state of the device rather than its speed.
MIN_PASSES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationResult:
    """Outcome of calibrating measurements by a run.

    Attributes:
        rows: New rows; empty if the measurements were calibrated by this run before.
        links: New rows of transfers between nodes.
        measurements: Measurements with the new rows.
        notes: Remarks on what was left out of the run, and why.
        text: New content of the measurements file.
    """

    rows: tuple[Observed, ...]
    measurements: Measurements
    links: tuple[LinkTime, ...] = ()
    notes: tuple[str, ...] = ()
    text: str = ""


def calibrate_from_run(
    record: Path, out: Path, *, model: Path, cluster: Cluster
) -> CalibrationResult:
    """Returns a measurements file with a run's measured and predicted seconds added.

    Measured seconds are those that each stage would have taken alone
    (`uncontended_seconds`). Predicted seconds are those of the same sizes by the file's
    rows, without corrections of earlier runs. So the cost of a shared machine does not
    count twice, and the run may have been planned with any corrections. The same record
    changes nothing the second time.

    Raises:
        MeasurementError: The run is of another model, device or kernels than the
            measurements, or too short.
    """
    run = read_run(record)
    table = read_measurements(out)
    where = f"run record {record}"
    digest = f"sha256:{hashlib.sha256(record.read_bytes()).hexdigest()}"
    check_model(run.strategy, table, model, where)
    node_devices = first_devices(run.strategy, cluster, where)
    if any(row.record == digest for row in table.observed):
        return CalibrationResult(rows=(), measurements=table)
    for batch in run.batches:
        check_batch(batch, table, node_devices, where)
    notes = [
        f"the stage on {', '.join(stage.devices)} is spread over several devices: left out"
        for stage in run.strategy.stages
        if len(stage.devices) > 1
    ]
    rows = []
    for (kind, phase), sums in _added_up(run, table, node_devices).items():
        if sums.num_passes < MIN_PASSES:
            notes.append(
                f"{kind} in {phase}: {sums.num_passes} micro-batches, fewer than "
                f"{MIN_PASSES}: left out"
            )
            continue
        rows.append(
            Observed(
                kind=kind,
                phase=phase,
                predicted_s=sums.predicted_s,
                measured_s=sums.measured_s,
                num_passes=sums.num_passes,
                run=record.name,
                record=digest,
                strategy=strategy_fingerprint(run.strategy),
                date=run.date,
            )
        )
    if not rows:
        msg = f"{where}: {'; '.join(notes)}: expected {MIN_PASSES} micro-batches or more through the single devices of a kind; run more prompts, or for longer"
        raise MeasurementError(msg)
    hidden_size = read_architecture(model).hidden_size
    links = hop_times(run, node_devices, hidden_size, min_samples=MIN_PASSES)
    for row in (*rows, *links):
        table = with_row(table, row)
    notes += notes_on_links(cluster, links)
    return CalibrationResult(
        rows=tuple(rows),
        links=tuple(links),
        measurements=table,
        notes=tuple(notes),
        text=finished_text(out) + "".join(map(row_text, (*rows, *links))),
    )


@dataclass(kw_only=True, slots=True)
class _Sums:
    predicted_s: float = 0.0
    measured_s: float = 0.0
    num_passes: int = 0


def _added_up(
    run: RecordedRun, table: Measurements, node_devices: list[NodeDevice]
) -> dict[tuple[str, Phase], _Sums]:
    """Adds up seconds of stages on one device, by kind in order and by phase."""
    strategy = run.strategy
    latency = _uncorrected(table, strategy)
    last = len(strategy.stages) - 1
    nodes = {node_device.node.name: node_device.node for node_device in node_devices}
    known: dict[tuple[int, MicroBatchShape], float] = {}
    sums: dict[tuple[str, Phase], _Sums] = defaultdict(_Sums)
    for batch in run.batches:
        own = uncontended_seconds(
            strategy,
            batch.events,
            lambda node, phase: node_serial_fraction(nodes[node], table, phase),
        )
        for event, measured_s in zip(batch.events, own, strict=True):
            if len(strategy.stages[event.stage].devices) == 1:
                kind = node_devices[event.stage].device.kind
                sums[kind, event.phase].measured_s += measured_s
        for number, size, count in _passes(batch):
            stage, kind = strategy.stages[number], node_devices[number].device.kind
            if len(stage.devices) > 1:
                continue
            if (number, size) not in known:
                known[number, size] = micro_batch_s(
                    latency,
                    kind,
                    stage.bits,
                    size,
                    has_embedding=number == 0,
                    head_bits=strategy.precision.head_bits if number == last else None,
                )
            found = sums[kind, size.phase]
            found.predicted_s += count * known[number, size]
            found.num_passes += count
    kinds = dict.fromkeys(node_device.device.kind for node_device in node_devices)
    return {
        (kind, phase): sums[kind, phase]
        for kind in kinds
        for phase in PHASES
        if (kind, phase) in sums
    }


def _passes(batch: BatchRecord) -> Iterator[tuple[int, MicroBatchShape, int]]:
    """Yields each stage with a micro-batch that passed it whole, and how often."""
    prompts: dict[tuple[int, int], MicroBatchShape] = {}
    for event in batch.events:
        size = MicroBatchShape(
            phase=event.phase,
            rows=event.rows,
            tokens=event.tokens,
            slots=event.slots,
            num_steps=event.num_steps,
        )
        if event.phase == "decode":
            yield event.stage, size, event.num_steps
            continue
        # Measurements are of whole prompts, while long ones pass in chunks.
        key = event.stage, event.micro_batch
        chunks = prompts.get(key)
        tokens = size.tokens + (0.0 if chunks is None else chunks.tokens)
        prompts[key] = replace(size, tokens=tokens)
    for (number, _), size in prompts.items():
        yield number, size, 1


def _uncorrected(table: Measurements, strategy: Strategy) -> LatencyModel:
    """Fits latencies without the corrections of earlier runs."""
    kv_bits = strategy.precision.kv_bits
    layers = tuple(row for row in table.layers if row.kv_bits == kv_bits)
    return fit_latency(replace(table, layers=layers, observed=()))
