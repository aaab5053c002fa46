"""From a request, which names files, to the planning problem, which holds their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast, get_args

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights, model_fingerprint
from llmpq_jax.arch.measurement_checks import (
    check_kinds,
    check_measurements,
    staleness_warnings,
)
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.validate import plannable_bits
from llmpq_jax.errors import MeasurementError
from llmpq_jax.planner import PlanRequest
from llmpq_jax.planner.pins import Use, with_use
from llmpq_jax.report.corrections import factor_lines
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.precision import ALL_BITS, Bits
from llmpq_jax.schema.record_files import read_cluster, read_sensitivity
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.solve_request import PlannerChoices, SolveRequest, Sources
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.workload import Workload
from llmpq_jax.tasks.unmeasured import (
    catalogue_digest,
    config_alone,
    figures_note,
    model_reference,
    roofline_measurements,
)

_GroupSize = Literal[32, 64, 128]


def planning_request(
    model: Path,
    workload: Workload,
    request: SolveRequest,
    *,
    on_note: Callable[[str], None] = lambda _: None,
) -> PlanRequest:
    """Reads the files that a request names and returns the planning problem.

    Without measurements, seconds are predicted from data-sheet figures. Without
    sensitivities, the variance of the weights is used, or, if there are no weights
    either, all layers count as equally sensitive.

    Args:
        model: Folder of the checkpoint, or of its config.json alone.
        workload: Prompts that are to be served.
        request: Sources, choices and limits of the plan.
        on_note: Called with a remark on each assumption that replaces a file.

    Raises:
        CheckpointError: Weights are damaged, or quantised so that no plan is left.
        SpecError: A file cannot be read, or is of another model.
        ValueError: A choice does not suit the cluster, the model or the workload.
    """
    choices = request.choices
    architecture = read_architecture(model)
    uses: dict[str, Use] = dict.fromkeys(choices.use, "always")
    uses |= dict.fromkeys(choices.leave_idle, "never")
    cluster = with_use(read_cluster(Path(request.sources.cluster)), uses)
    if request.sources.measurements is None:
        on_note(figures_note(cluster))
        measurements = _predict_measurements(
            model, architecture, cluster, workload, choices
        )
    else:
        measurements = _read_measurements(
            Path(request.sources.measurements), architecture, cluster, on_note
        )
    group_size = _group_size(measurements)
    measured = tuple(sorted({row.tensor for row in measurements.layers}))
    reference, sensitivity, allowed, tensor = _examine_weights(
        model,
        architecture,
        request,
        group_size,
        tensor=choices.tensor or measured,
        on_note=on_note,
    )
    return PlanRequest(
        architecture=architecture,
        model=replace(reference, rounded=sensitivity.rounded),
        cluster=cluster,
        measurements=measurements,
        sensitivity=sensitivity,
        workload=workload,
        activations=measurements.activations,
        group_size=group_size,
        bits=tuple(bits for bits in allowed if bits in choices.bits),
        head_bits=choices.head_bits,
        kv_bits=choices.kv_bits,
        wire_bits=choices.wire_bits,
        tensor=tensor,
        omega_budget=request.quality.omega_budget,
        theta=request.quality.theta,
        pins=(*choices.pin_layers, *choices.pin_bits),
        prefill=choices.prefill_micro_batch,
        decode=choices.decode_micro_batch,
    )


def _predict_measurements(
    model: Path,
    architecture: Architecture,
    cluster: Cluster,
    workload: Workload,
    choices: PlannerChoices,
) -> Measurements:
    return roofline_measurements(
        model,
        architecture,
        cluster,
        workload,
        prefill=choices.prefill_micro_batch,
        decode=choices.decode_micro_batch,
        tensor=choices.tensor or (1,),
    )


def _read_measurements(
    path: Path,
    architecture: Architecture,
    cluster: Cluster,
    on_note: Callable[[str], None],
) -> Measurements:
    """Reads measurements, checks them, and notes what is doubtful or corrected."""
    measurements = read_measurements(path)
    check_measurements(measurements, architecture)
    check_kinds(measurements, cluster)
    kinds = dict.fromkeys(each.device.kind for each in cluster.node_devices)
    today, jax_version = datetime.now(UTC).date(), version("jax")
    for note in (
        *staleness_warnings(measurements, jax_version=jax_version, today=today),
        *factor_lines(measurements, kinds),
    ):
        on_note(note)
    return measurements


def _examine_weights(
    model: Path,
    architecture: Architecture,
    request: SolveRequest,
    group_size: int,
    *,
    tensor: tuple[int, ...],
    on_note: Callable[[str], None],
) -> tuple[ModelReference, Sensitivity, tuple[Bits, ...], tuple[int, ...]]:
    """Reads what the checkpoint allows, or assumes it if there are no weights to read.

    Returns the model's reference, each layer's quality loss, the bits that every layer
    can be served at, and the numbers of devices that may hold one stage.
    """
    sources, choices = request.sources, request.choices
    sensitivity = None
    if sources.sensitivity is not None:
        sensitivity = read_sensitivity(Path(sources.sensitivity))
    if sources.roofline and not has_weights(model):
        on_note(f"no weights in {model}: all layers count as equally sensitive")
        reference, assumed = config_alone(model, architecture, group_size=group_size)
        return reference, sensitivity or assumed, ALL_BITS, tensor
    reader = CheckpointReader(model)
    allowed = plannable_bits(reader, architecture, head=choices.head_bits[0])
    if max(tensor) > 1 and any(name.endswith("g_idx") for name in reader):
        on_note(
            "the checkpoint's groups may be in act-order, which no mesh serves: "
            "each stage has one device"
        )
        tensor = (1,)
    if sensitivity is None:
        from llmpq_jax.sensitivity.weight_variance import weight_variance

        on_note(
            "no --sensitivity: estimating it from the variance of the weights alone"
        )
        sensitivity = weight_variance(model, group_size=group_size)
    reference = model_reference(model, architecture, model_fingerprint(model))
    return reference, sensitivity, allowed, tensor


def measurements_digest(sources: Sources, cluster: Cluster | None = None) -> str:
    """Returns a digest of the measurements, or of the figures used instead of them.

    Those may be a cluster's own.
    """
    if sources.measurements is None:
        return catalogue_digest(cluster)
    content = Path(sources.measurements).read_bytes()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _group_size(measured: Measurements) -> _GroupSize:
    allowed = get_args(_GroupSize)
    if measured.group_size not in allowed:
        msg = f"measurements of {measured.model}: group_size is {measured.group_size}: expected one of {list(allowed)}; run `llmpq-jax profile` again"
        raise MeasurementError(msg)
    return cast("_GroupSize", measured.group_size)
