"""From the files a person names to a planning problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmpq_jax.solver import PlanRequest
from llmpq_jax.spec.cluster_file import read_cluster
from llmpq_jax.spec.families import read_architecture
from llmpq_jax.spec.fingerprint import has_weights, model_fingerprint
from llmpq_jax.spec.measurements_file import check_measurements, read_measurements
from llmpq_jax.spec.sensitivity_file import read_sensitivity
from llmpq_jax.spec.strategy import ModelReference
from llmpq_jax.spec.workload import Workload
from llmpq_jax.workflow.what_if import config_alone, foretold_measurements


def planning_request(
    model: Path,
    cluster: Path,
    workload: Workload,
    *,
    measurements: Path | None,
    sensitivity: Path | None,
) -> PlanRequest:
    """Reads what a plan is made of; without measurements, makers' figures stand in.

    Without a sensitivity file the weights' variance is taken, or, where there are no
    weights either, all layers count alike.

    Raises:
        SpecError: A file cannot be read, or is of another model.
    """
    architecture = read_architecture(model)
    devices = read_cluster(cluster)
    if measurements is None:
        measured = foretold_measurements(model, architecture, devices, workload)
    else:
        measured = read_measurements(measurements)
        check_measurements(measured, architecture)
    judged = None
    if measurements is None and not has_weights(model):
        reference, judged = config_alone(
            model, architecture, group_size=measured.group_size
        )
    else:
        reference = ModelReference(
            path=str(model),
            architecture=architecture.family,
            num_layers=architecture.num_layers,
            fingerprint=model_fingerprint(model),
        )
    if sensitivity is not None:
        judged = read_sensitivity(sensitivity)
    elif judged is None:
        from llmpq_jax.indicator.weight_variance import weight_variance

        judged = weight_variance(model, group_size=measured.group_size)
    return PlanRequest(
        architecture=architecture,
        model=replace(reference, rounded=judged.rounded),
        cluster=devices,
        measurements=measured,
        sensitivity=judged,
        workload=workload,
        activations=measured.activations,
        # Another one than a plan may have is refused with the measurements.
        group_size=measured.group_size,  # pyright: ignore[reportArgumentType]
    )
