"""Checks that a run and measurements are of the same model, devices and kernels."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights, model_fingerprint
from llmpq_jax.arch.measurement_checks import check_measurements
from llmpq_jax.errors import MeasurementError
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import MeasuredKind, Measurements
from llmpq_jax.schema.strategy import Strategy

_SERVING = ("device", "driver", "jax_version", "kernel_path")


def check_model(
    strategy: Strategy, table: Measurements, model: Path, where: str
) -> None:
    """Refuses a run of another model or other types than the measurements.

    Raises:
        MeasurementError: They are of different models or types.
    """
    check_measurements(table, read_architecture(model))
    if has_weights(model):
        found, expected = strategy.model.fingerprint, model_fingerprint(model)
        if found != expected:
            msg = f"{where}: is of model {found}, {model} is {expected}: expected the same; name the model that was run"
            raise MeasurementError(msg)
    for name in ("activations", "group_size"):
        ran, measured = getattr(strategy.precision, name), getattr(table, name)
        if ran != measured:
            msg = f"{where}: {name} is {ran}, the measurements have {measured}: expected the same; calibrate measurements of these types instead"
            raise MeasurementError(msg)


def first_devices(strategy: Strategy, cluster: Cluster, where: str) -> list[NodeDevice]:
    """Returns the first device of each stage.

    Raises:
        MeasurementError: The cluster lacks one of them.
    """
    found = []
    for stage in strategy.stages:
        try:
            found.append(cluster.find(stage.devices[0]))
        except KeyError as reason:
            msg = f"{where}: has a stage on {stage.devices[0]}, which cluster {cluster.name!r} lacks: expected the cluster that was run on"
            raise MeasurementError(msg) from reason
    return found


def check_batch(
    batch: BatchRecord,
    table: Measurements,
    node_devices: list[NodeDevice],
    where: str,
) -> None:
    """Refuses a batch that ran on other devices or kernels than were measured.

    Raises:
        MeasurementError: It ran on others, or its record is too old to say.
    """
    if not batch.events or not all(event.rows for event in batch.events):
        msg = f"{where}: does not say the size of each micro-batch: expected what this version's `llmpq-jax generate --record FILE` writes; run it again"
        raise MeasurementError(msg)
    kinds = {row.kind: row for row in table.kinds}
    for times, node_device in zip(batch.stages, node_devices, strict=True):
        kind = kinds.get(node_device.device.kind)
        if kind is None or kind.source != "measured":
            how = (
                "was not measured"
                if kind is None
                else "is predicted from data-sheet figures"
            )
            msg = f"{where}: ran on {node_device.name}, whose kind {node_device.device.kind!r} {how}: expected one of {_measured(kinds)}; measure it with `llmpq-jax profile`"
            raise MeasurementError(msg)
        if times.machine is None:
            msg = f"{where}: does not say what {node_device.name} is: expected what this version's `llmpq-jax generate --record FILE` writes; run it again"
            raise MeasurementError(msg)
        for name in _SERVING:
            ran, measured = getattr(times.machine, name), getattr(kind, name)
            # Older measurements do not say the driver.
            if measured and ran != measured:
                msg = f"{where}: {node_device.name} ran with {name} {ran!r}, kind {kind.kind!r} was measured with {measured!r}: expected the same; measure again with `llmpq-jax profile`"
                raise MeasurementError(msg)


def _measured(kinds: dict[str, MeasuredKind]) -> list[str]:
    return sorted(name for name, kind in kinds.items() if kind.source == "measured")
