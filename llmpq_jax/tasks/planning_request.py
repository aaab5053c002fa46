"""From the files a person names to a planning problem."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast, get_args

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights, model_fingerprint
from llmpq_jax.arch.measurement_checks import check_kinds, check_measurements, doubts
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.validate import plannable_bits
from llmpq_jax.errors import MeasurementError
from llmpq_jax.planner import PlanRequest
from llmpq_jax.planner.constraints import Use, with_use
from llmpq_jax.report.corrections import factor_lines
from llmpq_jax.schema.cluster_file import read_cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.precision import ALL_BITS, HeadBits
from llmpq_jax.schema.sensitivity_file import read_sensitivity
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.workload import Workload
from llmpq_jax.tasks.unmeasured import (
    catalogue_digest,
    config_alone,
    roofline_measurements,
)

_GroupSize = Literal[32, 64, 128]


def planning_request(
    model: Path,
    cluster: Path,
    workload: Workload,
    *,
    measurements: Path | None,
    sensitivity: Path | None,
    head_bits: tuple[HeadBits, ...] = (16,),
    prefill: int | None = None,
    decode: int | None = None,
    tensor: tuple[int, ...] = (1,),
    uses: Mapping[str, Use] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> PlanRequest:
    """Reads what a plan is made of; without measurements, makers' figures stand in.

    Without a sensitivity file the weights' variance is taken, or, where there are no
    weights either, all layers count alike. Layers may have the bits that the checkpoint
    allows all of them.

    Args:
        model: Folder of the checkpoint, or of its config alone.
        cluster: Its file.
        workload: What is served.
        measurements: Their file.
        sensitivity: Its file.
        head_bits: The head may have.
        prefill: Pins the rows of a prefill micro-batch.
        decode: Pins the rows of a decode micro-batch.
        tensor: Devices of a node that a stage may be spread over.
        uses: Devices, by full name, that the cluster file says otherwise of.
        on_note: Hears of what stands in for something.

    Raises:
        CheckpointError: Weights are damaged, or quantised so that no plan is left.
        SpecError: A file cannot be read, or is of another model.
        ValueError: A pin is outside the batch, or of a device that is not there.
    """
    architecture = read_architecture(model)
    devices = with_use(read_cluster(cluster), uses or {})
    if measurements is None:
        measured = roofline_measurements(
            model,
            architecture,
            devices,
            workload,
            prefill=prefill,
            decode=decode,
            tensor=tensor,
        )
        on_note("--roofline: seconds are foretold from makers' figures, not measured")
    else:
        measured = read_measurements(measurements)
        check_measurements(measured, architecture)
        check_kinds(measured, devices)
        today = datetime.now(UTC).date()
        for doubt in doubts(measured, jax_version=version("jax"), today=today):
            on_note(doubt)
        kinds = dict.fromkeys(
            node_device.device.kind for node_device in devices.node_devices
        )
        for line in factor_lines(measured, kinds):
            on_note(line)
    judged, allowed = None, ALL_BITS
    if measurements is None and not has_weights(model):
        reference, judged = config_alone(
            model, architecture, group_size=measured.group_size
        )
        on_note(f"no weights in {model}: all layers count as equally sensitive")
    else:
        reader = CheckpointReader(model)
        allowed = plannable_bits(reader, architecture, head=head_bits[0])
        if max(tensor) > 1 and any(name.endswith("g_idx") for name in reader):
            on_note(
                "the checkpoint's groups may be in act-order, which no mesh serves: "
                "each stage has one device"
            )
            tensor = (1,)
        reference = ModelReference(
            path=str(model),
            architecture=architecture.family,
            num_layers=architecture.num_layers,
            fingerprint=model_fingerprint(model),
        )
    if sensitivity is not None:
        judged = read_sensitivity(sensitivity)
    elif judged is None:
        from llmpq_jax.sensitivity.weight_variance import weight_variance

        on_note(
            "no --sensitivity: judging layers by the variance of their weights alone"
        )
        judged = weight_variance(model, group_size=measured.group_size)
    return PlanRequest(
        architecture=architecture,
        model=replace(reference, rounded=judged.rounded),
        cluster=devices,
        measurements=measured,
        sensitivity=judged,
        workload=workload,
        activations=measured.activations,
        group_size=_group_size(measured),
        bits=allowed,
        head_bits=head_bits,
        prefill=prefill,
        decode=decode,
        tensor=tensor,
    )


def measurements_digest(measurements: Path | None) -> str:
    """Says by which measurements, or which catalogue, a plan was made."""
    if measurements is None:
        return catalogue_digest()
    return f"sha256:{hashlib.sha256(measurements.read_bytes()).hexdigest()}"


def _group_size(measured: Measurements) -> _GroupSize:
    allowed = get_args(_GroupSize)
    if measured.group_size not in allowed:
        msg = f"measurements of {measured.model}: group_size is {measured.group_size}: expected one of {list(allowed)}; run `llmpq-jax profile` again"
        raise MeasurementError(msg)
    return cast("_GroupSize", measured.group_size)
