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
from llmpq_jax.arch.model_limits import check_positions
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.validate import kept_matrices, plannable_bits, rounding_note
from llmpq_jax.errors import MeasurementError
from llmpq_jax.planner import PlanRequest
from llmpq_jax.planner.pins import Use, with_use
from llmpq_jax.report.console import progress_bar
from llmpq_jax.report.corrections import factor_lines
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.precision import ALL_BITS, Bits
from llmpq_jax.schema.record_files import read_cluster, read_sensitivity
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.solve_request import SolveRequest, Sources
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
    for note in check_positions(architecture, workload):
        on_note(note)
    cluster = _read_cluster(request)
    measurements = _measurements(
        model, architecture, cluster, workload, request, on_note
    )
    group_size = _group_size(measurements)
    measured = tuple(sorted({row.tensor for row in measurements.layers}))
    reference, sensitivity, layer_bits, tensor = _examine_weights(
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
        bits=_shared_choices(choices.bits, layer_bits),
        layer_bits=layer_bits,
        rounds_unquantized=choices.round_unquantized,
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


def _read_cluster(request: SolveRequest) -> Cluster:
    """Reads the cluster, with the devices that are to be used or left idle."""
    uses: dict[str, Use] = dict.fromkeys(request.choices.use, "always")
    uses |= dict.fromkeys(request.choices.leave_idle, "never")
    return with_use(read_cluster(Path(request.sources.cluster)), uses)


def _shared_choices(
    bits: tuple[Bits, ...], layer_bits: tuple[tuple[Bits, ...], ...]
) -> tuple[Bits, ...]:
    """Returns the precisions that are allowed and that some layer can have.

    If there are none, `PlanRequest` says so of the allowed ones.
    """
    found: set[Bits] = {each for own in layer_bits for each in own} or set(ALL_BITS)
    if not found & set(bits):
        return bits
    return tuple(each for each in ALL_BITS if each in bits and each in found)


def _measurements(
    model: Path,
    architecture: Architecture,
    cluster: Cluster,
    workload: Workload,
    request: SolveRequest,
    on_note: Callable[[str], None],
) -> Measurements:
    """Predicts measurements, or reads them, and notes what is doubtful or corrected."""
    choices, path = request.choices, request.sources.measurements
    if path is None:
        on_note(figures_note(cluster))
        return roofline_measurements(
            model,
            architecture,
            cluster,
            workload,
            prefill=choices.prefill_micro_batch,
            decode=choices.decode_micro_batch,
            tensor=choices.tensor or (1,),
        )
    measurements = read_measurements(Path(path))
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
) -> tuple[ModelReference, Sensitivity, tuple[tuple[Bits, ...], ...], tuple[int, ...]]:
    """Reads what the checkpoint allows, or assumes it if there are no weights to read.

    Returns the model's reference, each layer's quality loss, the bits that each layer can
    be served at (none without weights), and the numbers of devices that may hold one stage.
    """
    sources, choices = request.sources, request.choices
    sensitivity = None
    if sources.sensitivity is not None:
        sensitivity = read_sensitivity(Path(sources.sensitivity))
    if sources.roofline and not has_weights(model):
        on_note(f"no weights in {model}: all layers count as equally sensitive")
        reference, assumed = config_alone(model, architecture, group_size=group_size)
        return reference, sensitivity or assumed, (), tensor
    stored = CheckpointTensors(
        CheckpointReader(model),
        architecture,
        rounds_unquantized=choices.round_unquantized,
    )
    allowed = plannable_bits(stored, head=choices.head_bits[0])
    rounding = rounding_note(stored, (*choices.bits, *choices.head_bits))
    if rounding is not None:
        on_note(rounding)
    kept = kept_matrices(stored)
    if kept and not choices.round_unquantized:
        on_note(
            f"the checkpoint keeps {len(kept)} matrices unquantised ({kept[0]}, …): their "
            "layers are planned at 16 bits; --round-unquantized rounds them"
        )
    if max(tensor) > 1 and any(name.endswith("g_idx") for name in stored.reader):
        on_note(
            "the checkpoint's groups may be in act-order, which no mesh serves: "
            "each stage has one device"
        )
        tensor = (1,)
    if kept and choices.round_unquantized:
        on_note(_cost_of_rounding(model, kept, group_size))
    if sensitivity is None:
        from llmpq_jax.sensitivity.weight_variance import weight_variance

        on_note(
            "no --sensitivity: estimating it from the variance of the weights alone"
        )
        num_layers = architecture.num_layers
        with progress_bar("estimating", num_layers, unit="layers") as advance:
            sensitivity = weight_variance(
                model, group_size=group_size, on_layer=lambda: advance(1)
            )
    reference = model_reference(model, architecture, model_fingerprint(model))
    return reference, sensitivity, allowed, tensor


def _cost_of_rounding(model: Path, kept: tuple[str, ...], group_size: int) -> str:
    """Returns a line on what it costs to round matrices that the checkpoint keeps."""
    from llmpq_jax.sensitivity.weight_variance import matrix_noise

    noise = matrix_noise(model, kept, group_size=group_size)
    shown = ", ".join(f"{noise[bits]:.2g} at {bits} bits" for bits in noise)
    return f"--round-unquantized: {len(kept)} matrices that the checkpoint keeps unquantised may be rounded; expected noise over signal in their outputs, on average: {shown}"


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
