"""Measures a model on the devices at hand, row by row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.tensors import layer_tensors, tensors_bytes
from llmpq_jax.arch.tensors import tensor_widths as tensor_widths_of
from llmpq_jax.errors import MeasurementError
from llmpq_jax.profiler.contention import measure_shared, missing_shared
from llmpq_jax.profiler.dispatch_overhead import (
    is_overhead_measured,
    measure_dispatch_overhead,
)
from llmpq_jax.profiler.drift import DriftWatch, square_product
from llmpq_jax.profiler.grid import QUICK_GRID, Grid
from llmpq_jax.profiler.journal import Journal
from llmpq_jax.profiler.layers import (
    judge_layers,
    measure_ends,
    measure_layers,
    missing_ends,
    missing_layers,
    served_widths,
)
from llmpq_jax.profiler.links import measure_links, missing_links
from llmpq_jax.profiler.local_devices import local_devices
from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.cluster import Cluster, Device, NodeDevice
from llmpq_jax.schema.measurements import Drift, MeasuredKind, Measurements
from llmpq_jax.schema.precision import ALL_BITS, Activations, Bits, KvBits
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.hardware import machine_of

OnProgress = Callable[[int, int, str], None]

_STOPWATCH = Stopwatch()
# A deeper stack takes longer to compile and tells no more.
_MAX_STACKED = 4


def profile(
    model: Path | Architecture,
    cluster: Cluster,
    *,
    activations: Activations,
    group_size: int = 128,
    bits: tuple[Bits, ...] = ALL_BITS,
    kv_bits: KvBits = 16,
    tensor_widths: tuple[int, ...] = (1,),
    grid: Grid = QUICK_GRID,
    kinds: Collection[str] | None = None,
    out: Path | None = None,
    overwrites: bool = False,
    stopwatch: Stopwatch = _STOPWATCH,
    on_progress: OnProgress = lambda _done, _total, _what: None,
) -> Measurements:
    """Times layers, ends, links and shared processors of a cluster's devices.

    One device of each kind is measured, and as many as a width asks for. Weights are random, so a folder need hold no
    more than a config.json. With a file, what it holds already is not measured again:
    an interrupted run goes on, and a cluster of several machines is measured into one
    file, its kinds machine by machine.

    Args:
        model: A checkpoint's folder, or what it computes.
        cluster: Whose devices; those it never uses are left out.
        activations: Type of hidden states and cache.
        group_size: Of int4.
        bits: Of layers.
        kv_bits: Of the cache.
        tensor_widths: Over how many equal devices of a node layers are spread; a kind that
            has fewer on its node is measured at the widths that it has.
        grid: At which sizes.
        kinds: Only these kinds of device.
        out: The measurements file.
        overwrites: Start the file anew, whatever it holds.
        stopwatch: Times calls.
        on_progress: Hears how many rows are done of how many, and the last one's name.

    Raises:
        MeasurementError: A kind of device is not here, or the file holds measurements
            of other circumstances; or a width does not cut the model, or needs more
            devices than any kind has on a node.
    """
    architecture = (
        model if isinstance(model, Architecture) else read_architecture(model)
    )
    name = model.family if isinstance(model, Architecture) else model.resolve().name
    devices = local_devices(cluster, kinds)
    measured = _first_of_kind(cluster, devices)
    _check_widths(
        architecture,
        tensor_widths,
        most=max(len(same) for _, same in measured.values()),
    )
    journal = Journal(
        Measurements(
            model=name,
            layer_shape=layer_shape_fingerprint(architecture),
            activations=activations,
            group_size=group_size,
            kinds=(),
            layers=(),
            ends=(),
        ),
        out,
        overwrites=overwrites,
    )
    for device, same in measured.values():
        journal.add_kind(_measured_kind(device, same[0]))
    done, total = 0.0, 0
    watch: DriftWatch | None = None

    def on_row(what: str, part: float = 1.0, /) -> None:
        nonlocal done
        done += part
        if watch is not None:
            watch.look()
        # Parts of a row need not add up to it to the last digit.
        on_progress(int(done + 1e-6), total, what)

    session = Session(
        architecture=architecture,
        activations=activations,
        group_size=group_size,
        bits=bits,
        kv_bits=kv_bits,
        tensor_widths=tensor_widths,
        grid=grid,
        num_stacked=num_stacked(
            architecture, [device for device, _ in measured.values()], len(devices)
        ),
        stopwatch=stopwatch,
        journal=journal,
        on_row=on_row,
    )
    total = (
        sum(
            _num_missing(session, kind, len(same))
            for kind, (_, same) in measured.items()
        )
        + len(missing_links(session, cluster, devices))
        + len(missing_shared(session, cluster, devices))
    )
    for kind, (_, same) in measured.items():
        if not _num_missing(session, kind, len(same)):
            continue
        jax_device = same[0]
        watch = DriftWatch(call=square_product(jax_device), stopwatch=stopwatch)
        # First: what it costs is taken off the layers' seconds.
        measure_dispatch_overhead(session, kind, same)
        measure_layers(session, kind, same)
        measure_ends(session, kind, jax_device)
        journal.add(Drift(kind=kind, slowest=watch.slowest, fastest=watch.fastest))
    watch = None
    judge_layers(session)
    measure_links(session, cluster, devices)
    measure_shared(session, cluster, devices)
    return journal.measurements


def _num_missing(session: Session, kind: str, num_devices: int) -> int:
    layers = sum(
        len(missing_layers(session, kind, bits, tensor=tensor))
        for tensor in served_widths(session, num_devices)
        for bits in session.bits
    )
    ends = len(missing_ends(session, kind))
    return layers + ends + (not is_overhead_measured(session, kind))


def num_stacked(
    architecture: Architecture, devices: Sequence[Device], num_devices: int
) -> int:
    """Returns how many layers are timed together: an even share of the model.

    No more than four, nor than fill half of the smallest accelerator; the memory of
    an emulated device is not its own, and does not count.
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


def _first_of_kind(
    cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> dict[str, tuple[Device, tuple[JaxDevice, ...]]]:
    """Returns of each kind a device, and all of the kind on the node with most of them."""
    by_node: dict[str, dict[str, list[NodeDevice]]] = {}
    for node_devices in cluster.node_devices:
        if node_devices.name in devices:
            nodes = by_node.setdefault(node_devices.device.kind, {})
            nodes.setdefault(node_devices.node.name, []).append(node_devices)
    fullest = {kind: max(nodes.values(), key=len) for kind, nodes in by_node.items()}
    return {
        kind: (
            same[0].device,
            tuple(devices[node_devices.name] for node_devices in same),
        )
        for kind, same in fullest.items()
    }


def _check_widths(
    architecture: Architecture, widths: Sequence[int], *, most: int
) -> None:
    for width in widths:
        if width not in tensor_widths_of(architecture, width):
            cutting = list(tensor_widths_of(architecture, max(most, width)))
            msg = f"tensor width {width}: does not cut this model's layers evenly: expected one of {cutting}"
            raise MeasurementError(msg)
        if width > most:
            msg = f"tensor width {width}: no kind to be measured has more than {most} of its devices on a node here: expected that many at most; measure it on a machine that has them"
            raise MeasurementError(msg)


def _measured_kind(device: Device, jax_device: JaxDevice) -> MeasuredKind:
    machine = machine_of(jax_device)
    return MeasuredKind(
        kind=device.kind,
        device=machine.device,
        driver=machine.driver,
        platform=device.platform,
        jax_version=machine.jax_version,
        kernel_path=machine.kernel_path,
        date=datetime.now(UTC).date().isoformat(),
    )
