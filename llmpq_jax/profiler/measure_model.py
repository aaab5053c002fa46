"""Measures a model on the devices of this machine, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.tensors import layer_tensors, tensor_widths, tensors_bytes
from llmpq_jax.errors import MeasurementError
from llmpq_jax.profiler.contention import (
    measure_shared_capacity,
    missing_shared_capacity,
)
from llmpq_jax.profiler.dispatch_overhead import (
    measure_dispatch_overhead,
    measured_overhead,
)
from llmpq_jax.profiler.journal import Journal
from llmpq_jax.profiler.layers import (
    measure_layers,
    measure_vocabulary_layers,
    missing_layers,
    missing_vocabulary_layers,
    record_held_out_accuracy,
    served_widths,
)
from llmpq_jax.profiler.links import measure_links, missing_links
from llmpq_jax.profiler.machine import local_devices
from llmpq_jax.profiler.session import ProfileOptions, Session
from llmpq_jax.profiler.stopwatch import DriftMonitor, square_product
from llmpq_jax.schema.cluster import Cluster, Device, NodeDevice
from llmpq_jax.schema.measurements import Drift, MeasuredKind, Measurements
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.hardware import machine_of

OnProgress = Callable[[int, int, str], None]

# A deeper stack takes longer to compile and is no more accurate.
_MAX_STACKED = 4


def profile(
    model: Path | Architecture,
    cluster: Cluster,
    options: ProfileOptions,
    *,
    out: Path | None = None,
    overwrites: bool = False,
    on_progress: OnProgress = lambda _done, _total, _what: None,
) -> Measurements:
    """Times layers, embedding, head, links and shared processors of a cluster's devices.

    One device of each kind is measured, or as many as a tensor width needs. Weights are
    random, so a model's folder need hold no more than a config.json. Rows that the
    measurements file has already are not measured again: an interrupted run is resumed,
    and a cluster of several machines is measured into one file, machine by machine.

    Args:
        model: Checkpoint folder, or architecture.
        cluster: Cluster of the devices; those that are never used are left out.
        options: Sizes, precisions and widths to measure.
        out: Measurements file; None to write none.
        overwrites: True to discard what the file holds.
        on_progress: Callback with rows done, all rows, and the name of the last one.

    Raises:
        MeasurementError: If a kind of device is not here, the file holds measurements of
            other circumstances, a width does not divide the model, or a width needs more
            devices than any kind has on a node.
    """
    if isinstance(model, Architecture):
        architecture, name = model, model.family
    else:
        architecture, name = read_architecture(model), model.resolve().name
    devices = local_devices(cluster, options.kinds)
    measured = _devices_by_kind(cluster, devices)
    max_width = max(len(equal) for _, equal in measured.values())
    _check_widths(architecture, options.tensor_widths, max_width=max_width)
    header = _header(name, architecture, options)
    journal = Journal(header, out, overwrites=overwrites)
    for device, equal in measured.values():
        journal.add_kind(_measured_kind(device, equal[0]))
    total, done = 0, 0.0

    def on_row(what: str, part: float) -> None:
        nonlocal done
        done += part
        # Parts of a row need not add up to it to the last digit.
        on_progress(int(done + 1e-6), total, what)

    session = Session(
        architecture=architecture,
        options=options,
        num_stacked=num_stacked(
            architecture, [device for device, _ in measured.values()], len(devices)
        ),
        journal=journal,
        on_row=on_row,
    )
    total = sum(
        _num_missing(session, kind, len(equal)) for kind, (_, equal) in measured.items()
    )
    total += len(missing_links(session, cluster, devices))
    total += len(missing_shared_capacity(session, cluster, devices))
    for kind, (_, equal) in measured.items():
        if _num_missing(session, kind, len(equal)):
            _measure_kind(session, kind, equal)
    record_held_out_accuracy(session)
    measure_links(session, cluster, devices)
    measure_shared_capacity(session, cluster, devices)
    return journal.measurements


def _header(
    name: str, architecture: Architecture, options: ProfileOptions
) -> Measurements:
    return Measurements(
        model=name,
        layer_shape=layer_shape_fingerprint(architecture),
        activations=options.activations,
        group_size=options.group_size,
        kinds=(),
        layers=(),
        vocabulary_layers=(),
    )


def _measure_kind(session: Session, kind: str, devices: tuple[JaxDevice, ...]) -> None:
    monitor = DriftMonitor(
        call=square_product(devices[0]), stopwatch=session.options.stopwatch
    )

    def on_row(what: str, part: float) -> None:
        monitor.check()
        session.on_row(what, part)

    monitored = replace(session, on_row=on_row)
    # First, because layers subtract it.
    measure_dispatch_overhead(monitored, kind, devices)
    measure_layers(monitored, kind, devices)
    measure_vocabulary_layers(monitored, kind, devices[0])
    session.journal.add(
        Drift(kind=kind, slowest=monitor.slowest, fastest=monitor.fastest)
    )


def _num_missing(session: Session, kind: str, num_devices: int) -> int:
    layers = sum(
        len(missing_layers(session, kind, bits, tensor=tensor))
        for tensor in served_widths(session, num_devices)
        for bits in session.options.bits
    )
    vocabulary_layers = len(missing_vocabulary_layers(session, kind))
    return layers + vocabulary_layers + (measured_overhead(session, kind) is None)


def num_stacked(
    architecture: Architecture, devices: Sequence[Device], num_devices: int
) -> int:
    """Returns the number of layers that are timed together: an even share of the model.

    At most four, and as many as fill half of the smallest accelerator. Emulated devices
    have no memory of their own and do not limit it.
    """
    share = round(architecture.num_layers / num_devices)
    tensors = layer_tensors(architecture)
    layer_bytes = tensors_bytes(tensors, bits=16, group_size=128)
    fitting = [
        device.usable_bytes // 2 // layer_bytes
        for device in devices
        if device.platform != "cpu"
    ]
    return max(1, min(share, _MAX_STACKED, *fitting))


def _devices_by_kind(
    cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> dict[str, tuple[Device, tuple[JaxDevice, ...]]]:
    """Returns a device of each kind, and all of the kind on the node with most of them."""
    by_node: dict[str, dict[str, list[NodeDevice]]] = {}
    for node_device in cluster.node_devices:
        if node_device.name in devices:
            nodes = by_node.setdefault(node_device.device.kind, {})
            nodes.setdefault(node_device.node.name, []).append(node_device)
    largest = {kind: max(nodes.values(), key=len) for kind, nodes in by_node.items()}
    return {
        kind: (equal[0].device, tuple(devices[each.name] for each in equal))
        for kind, equal in largest.items()
    }


def _check_widths(
    architecture: Architecture, widths: Sequence[int], *, max_width: int
) -> None:
    for width in widths:
        if width not in tensor_widths(architecture, width):
            dividing = list(tensor_widths(architecture, max(max_width, width)))
            msg = f"tensor width {width}: does not divide this model's layers evenly: expected one of {dividing}"
            raise MeasurementError(msg)
        if width > max_width:
            msg = f"tensor width {width}: no kind to be measured has more than {max_width} of its devices on a node here: expected that number at most; measure it on a machine that has them"
            raise MeasurementError(msg)


def _measured_kind(device: Device, jax_device: JaxDevice) -> MeasuredKind:
    return MeasuredKind(
        kind=device.kind,
        platform=device.platform,
        date=datetime.now(UTC).date().isoformat(),
        **asdict(machine_of(jax_device)),
    )
