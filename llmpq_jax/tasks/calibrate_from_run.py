"""Folds a run back into the measurements that the next plan is made of."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import (
    has_weights,
    model_fingerprint,
    strategy_fingerprint,
)
from llmpq_jax.arch.measurement_checks import check_measurements
from llmpq_jax.costmodel.contention import node_serial_fraction
from llmpq_jax.costmodel.latency import LatencyModel, fit_latency
from llmpq_jax.costmodel.micro_batch_latency import MicroBatchShape, micro_batch_s
from llmpq_jax.errors import MeasurementError
from llmpq_jax.files import write_text
from llmpq_jax.runtime.analysis.run_file import RecordedRun, read_run
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.runtime.analysis.uncontended import uncontended_seconds
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import (
    PHASES,
    LinkTime,
    MeasuredKind,
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

# Fewer tell more of the moment than of the device.
MIN_PASSES = 8
_SERVING = ("device", "driver", "jax_version", "kernel_path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What came of folding a run in.

    Attributes:
        rows: That are new; none where the run was folded in before.
        links: Likewise, of transfers from node to node.
        measurements: With them.
        notes: What of the run was left out, and why.
    """

    rows: tuple[Observed, ...]
    measurements: Measurements
    links: tuple[LinkTime, ...] = ()
    notes: tuple[str, ...] = ()


def calibrate_from_run(
    record: Path, out: Path, *, model: Path, cluster: Cluster
) -> Calibration:
    """Adds what a run took to a measurements file, by kind and phase.

    Seconds are those that each stage would have taken alone (`uncontended_seconds`), beside what
    the file's rows foretell of the sizes that were run, without corrections of earlier
    runs. So what a shared machine costs is not counted twice, and runs may be folded in
    whatever plan, or corrections, they were made with. The same record changes nothing
    when it is folded in again.

    Args:
        record: What `generate --record` wrote.
        out: Measurements.
        model: Folder of the checkpoint, or of its config alone.
        cluster: Whose devices ran.

    Raises:
        SpecError: A file cannot be read, or is of another model.
        MeasurementError: The run is of another model, device or kernels than the
            measurements, or tells too little.
    """
    run = read_run(record)
    table = read_measurements(out)
    where = f"run record {record}"
    digest = f"sha256:{hashlib.sha256(record.read_bytes()).hexdigest()}"
    _check_model(run.strategy, table, model, where)
    node_devices = _places(run.strategy, cluster, where)
    if any(row.record == digest for row in table.observed):
        return Calibration(rows=(), measurements=table)
    for batch in run.batches:
        _check_batch(batch, run.strategy, table, node_devices, where)
    notes = [
        f"the stage on {', '.join(stage.devices)} is spread over several devices: left out"
        for stage in run.strategy.stages
        if len(stage.devices) > 1
    ]
    sums = _added_up(run, table, node_devices)
    rows = []
    for kind in dict.fromkeys(node_device.device.kind for node_device in node_devices):
        for phase in PHASES:
            found = sums.get((kind, phase))
            if found is None:
                continue
            if found.num_passes < MIN_PASSES:
                notes.append(
                    f"{kind} in {phase}: {found.num_passes} micro-batches, fewer than "
                    f"{MIN_PASSES}: left out"
                )
                continue
            rows.append(
                Observed(
                    kind=kind,
                    phase=phase,
                    predicted_s=found.predicted_s,
                    measured_s=found.measured_s,
                    num_passes=found.num_passes,
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
    links = hop_times(run, node_devices, hidden_size, least=MIN_PASSES)
    for row in (*rows, *links):
        table = with_row(table, row)
    notes += notes_on_links(cluster, links)
    write_text(out, finished_text(out) + "".join(map(row_text, (*rows, *links))))
    return Calibration(
        rows=tuple(rows), links=tuple(links), measurements=table, notes=tuple(notes)
    )


@dataclass(kw_only=True, slots=True)
class _Sums:
    predicted_s: float = 0.0
    measured_s: float = 0.0
    num_passes: int = 0


def _added_up(
    run: RecordedRun, table: Measurements, node_devices: list[NodeDevice]
) -> dict[tuple[str, Phase], _Sums]:
    """Adds up what stages on one device took and should have, by kind and phase."""
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
    return sums


def _passes(batch: BatchRecord) -> Iterator[tuple[int, MicroBatchShape, int]]:
    """Yields micro-batches that went through stages whole: the stage, and how often."""
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
        # A table knows whole prompts, which long ones pass in chunks.
        key = event.stage, event.micro_batch
        chunks = prompts.get(key)
        tokens = size.tokens + (0.0 if chunks is None else chunks.tokens)
        prompts[key] = replace(size, tokens=tokens)
    for (number, _), size in prompts.items():
        yield number, size, 1


def _uncorrected(table: Measurements, strategy: Strategy) -> LatencyModel:
    kv_bits = strategy.precision.kv_bits
    layers = tuple(row for row in table.layers if row.kv_bits == kv_bits)
    return fit_latency(replace(table, layers=layers, observed=()))


def _check_model(
    strategy: Strategy, table: Measurements, model: Path, where: str
) -> None:
    check_measurements(table, read_architecture(model))
    if has_weights(model):
        found, expected = strategy.model.fingerprint, model_fingerprint(model)
        if found != expected:
            msg = f"{where}: is of model {found}, {model} is {expected}: expected the same; name the model that was run"
            raise MeasurementError(msg)
    for name in ("activations", "group_size"):
        ran, measured = getattr(strategy.precision, name), getattr(table, name)
        if ran != measured:
            msg = f"{where}: {name} is {ran}, the measurements have {measured}: expected the same; fold it into measurements of its own"
            raise MeasurementError(msg)


def _places(strategy: Strategy, cluster: Cluster, where: str) -> list[NodeDevice]:
    """Returns the first device of each stage."""
    found = []
    for stage in strategy.stages:
        try:
            found.append(cluster.find(stage.devices[0]))
        except KeyError as reason:
            msg = f"{where}: has a stage on {stage.devices[0]}, which cluster {cluster.name!r} lacks: expected the cluster that was run on"
            raise MeasurementError(msg) from reason
    return found


def _check_batch(
    batch: BatchRecord,
    strategy: Strategy,
    table: Measurements,
    node_devices: list[NodeDevice],
    where: str,
) -> None:
    if not batch.events or not all(event.rows for event in batch.events):
        msg = f"{where}: does not tell the size of each micro-batch: expected what this version's `llmpq-jax generate --record FILE` writes; run it again"
        raise MeasurementError(msg)
    kinds = {row.kind: row for row in table.kinds}
    for times, node_device in zip(batch.stages, node_devices, strict=True):
        kind = kinds.get(node_device.device.kind)
        if kind is None or kind.source != "measured":
            how = (
                "was not measured" if kind is None else "is foretold by makers' figures"
            )
            msg = f"{where}: ran on {node_device.name}, whose kind {node_device.device.kind!r} {how}: expected one of {_measured(kinds)}; measure it with `llmpq-jax profile`"
            raise MeasurementError(msg)
        if times.machine is None:
            msg = f"{where}: does not tell what {node_device.name} is: expected what this version's `llmpq-jax generate --record FILE` writes; run it again"
            raise MeasurementError(msg)
        for name in _SERVING:
            ran, measured = getattr(times.machine, name), getattr(kind, name)
            # Older measurements do not tell the driver.
            if measured and ran != measured:
                msg = f"{where}: {node_device.name} ran with {name} {ran!r}, kind {kind.kind!r} was measured with {measured!r}: expected the same; measure anew with `llmpq-jax profile`"
                raise MeasurementError(msg)


def _measured(kinds: dict[str, MeasuredKind]) -> list[str]:
    return sorted(name for name, kind in kinds.items() if kind.source == "measured")
