"""Checks whether measurements fit a model and a cluster, and are not outdated."""

from __future__ import annotations

from datetime import date

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements

# Age above which measurements are reported as possibly outdated.
MAX_AGE_DAYS = 180


def check_measurements(measurements: Measurements, architecture: Architecture) -> None:
    """Refuses measurements of layers of another shape than a model's.

    Raises:
        MeasurementError: If the shapes differ.
    """
    expected = layer_shape_fingerprint(architecture)
    if measurements.layer_shape != expected:
        msg = f"measurements of {measurements.model}: found layers of shape {measurements.layer_shape}, expected {expected}, the shape of this {architecture.family} model: run `llmpq-jax profile` for this model"
        raise MeasurementError(msg)


def check_kinds(measurements: Measurements, cluster: Cluster) -> None:
    """Refuses measurements of a kind that were made on another backend.

    Raises:
        MeasurementError: If a kind's platform is not that of the cluster's devices.
    """
    measured = {row.kind: row for row in measurements.kinds}
    for node_device in cluster.node_devices:
        device = node_device.device
        found, wanted = measured.get(device.kind), device.platform
        # JAX calls CUDA "gpu" as well.
        known = {wanted, "gpu"} if wanted == "cuda" else {wanted}
        if device.use != "never" and found and found.platform not in known:
            msg = f"measurements of {measurements.model}: kind {found.kind!r} was measured on platform {found.platform!r}, {node_device.name} has {wanted!r}: expected the same; use another kind in the cluster file, or run `llmpq-jax profile` there"
            raise MeasurementError(msg)


def staleness_warnings(
    measurements: Measurements, *, jax_version: str, today: date
) -> tuple[str, ...]:
    """Returns a warning for each reason why measurements may be outdated.

    Args:
        measurements: Measurements; rooflines in them are never outdated.
        jax_version: Version of JAX that the plan will run with.
        today: Current date, for the age of measurements.
    """
    found = []
    for row in measurements.kinds:
        if row.source != "measured":
            continue
        if row.jax_version != jax_version:
            msg = f"{row.kind} was measured with JAX {row.jax_version}, {jax_version} is installed: seconds and memory may differ; measure again with `llmpq-jax profile`"
            found.append(msg)
        age_days = (today - _date(row.date, today)).days
        if age_days > MAX_AGE_DAYS:
            msg = f"{row.kind} was measured {age_days} days ago: drivers and kernels may have changed; measure again with `llmpq-jax profile`"
            found.append(msg)
    return tuple(found)


def _date(text: str, otherwise: date) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return otherwise
