"""A request whose records have been checked against each other and fitted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from llmpq_jax.arch.tensors import tensor_widths
from llmpq_jax.costmodel.latency import LatencyModel, VocabularyLayer, fit_latency
from llmpq_jax.costmodel.quality import omega_table, whole_model_omega
from llmpq_jax.costmodel.workspace import WorkspaceModel, fit_workspace
from llmpq_jax.errors import MeasurementError, SpecError
from llmpq_jax.planner.instance.execution_units import (
    ExecutionUnit,
    find_execution_units,
)
from llmpq_jax.planner.instance.instance import DeviceGroup
from llmpq_jax.planner.pins import BitsPin, LayerPin
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.schema.cluster import NodeDevice
from llmpq_jax.schema.precision import ALL_BITS, Bits, HeadBits, KvBits, vector_bits
from llmpq_jax.schema.strategy import PrecisionChoice


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FittedModels:
    """Models fitted to the measurements of layers with a cache of some bits."""

    latency: LatencyModel
    workspace: WorkspaceModel


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Problem:
    """What all subproblems of a request share.

    Attributes:
        request: The planning request.
        node_devices: Devices that may be used, in the cluster file's order.
        execution_units: Devices and meshes of them that may hold a stage, axis J.
        device_groups: Execution units that share devices.
        bits: Precisions that some execution unit serves, highest first, axis B.
        omega: Loss of each layer at each precision, [L, B].
        fitted: Fitted models by the bits of the cache, those that were measured.
        source: Source of all seconds.
    """

    request: PlanRequest
    node_devices: tuple[NodeDevice, ...]
    execution_units: tuple[ExecutionUnit, ...]
    device_groups: tuple[DeviceGroup, ...]
    bits: tuple[Bits, ...]
    omega: Float[np.ndarray, "L B"]
    fitted: dict[KvBits, FittedModels]
    source: Literal["measured", "roofline"]

    @property
    def kv_bits(self) -> tuple[KvBits, ...]:
        """Precisions the cache may have, in the request's order."""
        return tuple(self.fitted)

    def precision(self, head_bits: HeadBits, kv_bits: KvBits) -> PrecisionChoice:
        """Returns the precisions that hold for the whole model."""
        return PrecisionChoice(
            activations=self.request.activations,
            head_bits=head_bits,
            kv_bits=kv_bits,
            rounding=self.request.sensitivity.rounding,
            group_size=self.request.group_size,
            rounds_unquantized=self.request.rounds_unquantized,
        )

    def fixed_omega(self, head_bits: HeadBits, kv_bits: KvBits) -> float:
        """Returns the ω of head and cache."""
        return whole_model_omega(
            self.request.sensitivity, head_bits=head_bits, kv_bits=kv_bits
        )


def make_problem(request: PlanRequest) -> Problem:
    """Checks that the records are of one model and fits the measurements.

    Raises:
        MeasurementError: If they are of another type or group size, or lack a kind of
            device, the embedding or the head.
        SpecError: If the sensitivities are of another model or do not cover it.
    """
    _check_measurements(request)
    _check_sensitivity(request)
    fitted = _fit_by_kv_bits(request)
    latencies = [each.latency for each in fitted.values()]
    node_devices = tuple(
        p for p in request.cluster.node_devices if p.device.use != "never"
    )
    _check_vocabulary_layers(request, node_devices, latencies[0])

    def is_served(
        kind: str, width: int, among: Collection[Bits] = request.bits
    ) -> bool:
        return any(
            latency.supports_layer(kind, b, tensor=width)
            for latency in latencies
            for b in among
        )

    max_width = max(len(node.devices) for node in request.cluster.nodes)
    model_widths = tensor_widths(request.architecture, max_width)
    execution_units, device_groups = find_execution_units(
        node_devices,
        allowed=[width for width in request.tensor if width in model_widths],
        is_served=is_served,
        alone=[pin.device for pin in request.pins if isinstance(pin, LayerPin)],
    )
    if not execution_units:
        msg = f"measurements of {request.measurements.model}: no stage of {' or '.join(map(str, request.tensor))} devices can be made: expected [[layer]] rows with such a tensor width, and a node with as many equal devices; measure them with `llmpq-jax profile --tensor-widths`, or allow single devices"
        raise MeasurementError(msg)
    bits: tuple[Bits, ...] = tuple(
        b
        for b in ALL_BITS
        if b in request.bits
        and any(is_served(unit.kind, unit.width, (b,)) for unit in execution_units)
    )
    for pin in request.pins:
        if isinstance(pin, BitsPin) and pin.bits not in bits:
            msg = f"pinned {pin}: expected one of {sorted(bits)}, the bits that were measured; measure it with `llmpq-jax profile`, or pin other bits"
            raise MeasurementError(msg)
    if not bits:
        kinds = ", ".join(
            sorted({repr(node_device.device.kind) for node_device in node_devices})
        )
        msg = f"measurements: no layer at any of {sorted(request.bits)} bits on {kinds}: expected [[layer]] rows of both phases; measure with `llmpq-jax profile`"
        raise MeasurementError(msg)
    num_layers = request.architecture.num_layers
    return Problem(
        request=request,
        node_devices=node_devices,
        execution_units=execution_units,
        device_groups=device_groups,
        bits=bits,
        omega=omega_table(request.sensitivity, num_layers=num_layers, bits=bits),
        fitted=fitted,
        source=_source(request, node_devices),
    )


def _source(
    request: PlanRequest, node_devices: tuple[NodeDevice, ...]
) -> Literal["measured", "roofline"]:
    """Returns where the seconds of the used kinds come from; a mixture is refused.

    Data-sheet figures are optimistic: compared with measured devices, predicted ones
    would win.
    """
    sources = {kind.kind: kind.source for kind in request.measurements.kinds}
    used = {node_device.device.kind for node_device in node_devices}
    predicted = sorted(kind for kind in used if sources.get(kind) == "roofline")
    if not predicted:
        return "measured"
    if len(predicted) < len(used):
        others = sorted(used - set(predicted))
        msg = f"measurements of {request.measurements.model}: {', '.join(predicted)} predicted from data-sheet figures, {', '.join(others)} measured: expected one or the other; measure all kinds with `llmpq-jax profile`, or plan with --roofline alone"
        raise MeasurementError(msg)
    return "roofline"


def _check_measurements(request: PlanRequest) -> None:
    found = request.measurements
    for name in ("activations", "group_size"):
        measured, wanted = getattr(found, name), getattr(request, name)
        if measured != wanted:
            msg = f"measurements of {found.model}: {name} is {measured}, the plan wants {wanted}: expected the same; ask for {measured} or run `llmpq-jax profile` again"
            raise MeasurementError(msg)
    kinds = {row.kind for row in found.layers}
    for node_device in request.cluster.node_devices:
        kind = node_device.device.kind
        if node_device.device.use != "never" and kind not in kinds:
            msg = f'measurements of {found.model}: nothing on {kind!r}, the kind of {node_device.name}: expected one of {sorted(kinds)}; run `llmpq-jax profile` there, or write use = "never"'
            raise MeasurementError(msg)


def _fit_by_kv_bits(request: PlanRequest) -> dict[KvBits, FittedModels]:
    """Fits the layers measured with each precision of the cache, where there are any."""
    found = request.measurements
    fitted: dict[KvBits, FittedModels] = {}
    for kv_bits in request.kv_bits:
        layers = tuple(row for row in found.layers if row.kv_bits == kv_bits)
        if layers:
            measured = replace(found, layers=layers)
            fitted[kv_bits] = FittedModels(
                latency=fit_latency(measured),
                workspace=fit_workspace(
                    measured, request.architecture, kv_bits=kv_bits
                ),
            )
    if not fitted:
        kv_bits = request.kv_bits[0]
        msg = f"measurements of {found.model}: no layer with a cache of {kv_bits} bits: expected [[layer]] rows of it; run `llmpq-jax profile --kv-bits {kv_bits}` into the same file"
        raise MeasurementError(msg)
    return fitted


def _check_sensitivity(request: PlanRequest) -> None:
    found = request.sensitivity
    if found.fingerprint != request.model.fingerprint:
        msg = f"sensitivity of {found.model}: fingerprint {found.fingerprint}, expected {request.model.fingerprint}, the model's; run `llmpq-jax indicate` on this model"
        raise SpecError(msg)
    if found.group_size != request.group_size:
        msg = f"sensitivity of {found.model}: group_size is {found.group_size}, the plan wants {request.group_size}: expected the same; run `llmpq-jax indicate` again"
        raise SpecError(msg)


def _check_vocabulary_layers(
    request: PlanRequest, node_devices: Sequence[NodeDevice], latency: LatencyModel
) -> None:
    kinds = {node_device.device.kind for node_device in node_devices}
    wanted: list[tuple[VocabularyLayer, HeadBits]] = []
    for bits in request.head_bits:
        wanted.append(("embedding", vector_bits(bits)))
        wanted.append(("head", bits))
    for layer, bits in wanted:
        if not any(
            latency.supports_vocabulary_layer(kind, layer, bits) for kind in kinds
        ):
            msg = f"measurements of {request.measurements.model}: no {layer} at {bits} bits on any of {sorted(kinds)}: expected [[vocabulary_layer]] rows of it; run `llmpq-jax profile`"
            raise MeasurementError(msg)
