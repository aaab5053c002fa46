"""Checks whether measurements suit a model, a cluster and the present day."""

from __future__ import annotations

from datetime import date

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements

# Age from which measurements are doubted.
OLD_DAYS = 180


def check_measurements(measurements: Measurements, architecture: Architecture) -> None:
    """Refuses measurements of layers of another shape than a model's.

    Raises:
        MeasurementError: They are of another shape.
    """
    expected = layer_shape_fingerprint(architecture)
    if measurements.layer_shape != expected:
        msg = f"measurements of {measurements.model}: found layers of shape {measurements.layer_shape}, expected {expected}, the shape of this {architecture.family} model: run `llmpq-jax profile` for this model"
        raise MeasurementError(msg)


def check_kinds(measurements: Measurements, cluster: Cluster) -> None:
    """Refuses measurements of a kind that another backend served.

    Raises:
        MeasurementError: A kind's platform is not that of the cluster's devices.
    """
    measured = {row.kind: row for row in measurements.kinds}
    for node_device in cluster.node_devices:
        found, wanted = (
            measured.get(node_device.device.kind),
            node_device.device.platform,
        )
        # JAX calls CUDA "gpu" as well.
        known = {wanted, "gpu"} if wanted == "cuda" else {wanted}
        if node_device.device.use != "never" and found and found.platform not in known:
            msg = f"measurements of {measurements.model}: kind {found.kind!r} was measured on platform {found.platform!r}, {node_device.name} is of {wanted!r}: expected the same; name another kind in the cluster file, or run `llmpq-jax profile` there"
            raise MeasurementError(msg)


def doubts(
    measurements: Measurements, *, jax_version: str, today: date
) -> tuple[str, ...]:
    """Says why measurements that can be read may no longer be right.

    Args:
        measurements: Made, not foretold.
        jax_version: That a plan will run with.
        today: To tell their age by.
    """
    found = []
    for row in measurements.kinds:
        if row.source != "measured":
            continue
        if row.jax_version != jax_version:
            found.append(
                f"{row.kind} was measured with JAX {row.jax_version}, here is "
                f"{jax_version}: seconds and memory may differ; `llmpq-jax profile` "
                "measures anew"
            )
        age_days = (today - _date(row.date, today)).days
        if age_days > OLD_DAYS:
            found.append(
                f"{row.kind} was measured {age_days} days ago: drivers and kernels may "
                "have changed; `llmpq-jax profile` measures anew"
            )
    return tuple(found)


def _date(text: str, otherwise: date) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return otherwise
