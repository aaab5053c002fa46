"""What replaces measurements and weights: data-sheet figures and a config.json."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.catalogue import DeviceKind, read_catalogue
from llmpq_jax.arch.fingerprint import config_fingerprint
from llmpq_jax.arch.tensors import tensor_widths
from llmpq_jax.costmodel.assumed_sensitivity import assumed_sensitivity
from llmpq_jax.costmodel.device_roofline import NodeInterconnect
from llmpq_jax.costmodel.roofline import roofline
from llmpq_jax.planner.instance.subproblems import micro_batches
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.toml import to_toml
from llmpq_jax.schema.workload import Workload


def roofline_measurements(
    model: Path,
    architecture: Architecture,
    cluster: Cluster,
    workload: Workload,
    *,
    prefill: int | None = None,
    decode: int | None = None,
    tensor: Collection[int] = (1,),
) -> Measurements:
    """Predicts measurements of every kind of device that a cluster uses.

    All sizes of micro-batches that a plan may try are predicted, or the given ones.
    `tensor` has the numbers of devices of a node that may hold one layer.

    Raises:
        ClusterError: Neither the cluster nor the catalogue has figures of a kind.
    """
    used = dict.fromkeys(
        node_device.device.kind
        for node_device in cluster.node_devices
        if node_device.device.use != "never"
    )
    pairs = micro_batches(workload.batch, prefill=prefill, decode=decode)
    return roofline(
        architecture,
        [_figures(cluster, kind) for kind in used],
        workload=workload,
        # Prompts that follow others into their slots are prefilled one by one.
        rows={1, *(rows for pair in pairs for rows in (pair.prefill, pair.decode))},
        name=model.name,
        interconnects={
            kind: _interconnect(cluster, kind, architecture, tensor) for kind in used
        },
    )


def _figures(cluster: Cluster, name: str) -> DeviceKind:
    """Returns the figures of a kind: the cluster's, or else those of the catalogue."""
    for kind in cluster.kinds:
        if kind.name == name:
            devices = (each.device for each in cluster.node_devices)
            device = next(each for each in devices if each.kind == name)
            return DeviceKind(
                name=name,
                platform=device.platform,
                memory_bytes=device.memory_bytes,
                flops=kind.flops,
                bandwidth_bytes_per_s=kind.bandwidth_bytes_per_s,
                source=kind.source,
            )
    return read_catalogue().find(name)


def figures_note(cluster: Cluster) -> str:
    """Returns a remark on what seconds are predicted from, and whose figures it is."""
    note = "--roofline: seconds are predicted from data-sheet figures, not measured"
    own = [
        f"{kind.name} {kind.flops:.4g} FLOP/s and {kind.bandwidth_bytes_per_s:.4g} "
        f"bytes/s ({kind.source})"
        for kind in cluster.kinds
    ]
    return f"{note}; not from the catalogue: {', '.join(own)}" if own else note


def _interconnect(
    cluster: Cluster, kind: str, architecture: Architecture, tensor: Collection[int]
) -> NodeInterconnect:
    """Returns how devices of a kind are joined: the slowest of all nodes with several."""
    groups: dict[str, list[NodeDevice]] = {}
    for node_device in cluster.node_devices:
        if node_device.device.kind == kind and node_device.device.use != "never":
            groups.setdefault(node_device.node.name, []).append(node_device)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return NodeInterconnect()
    num_devices = max(len(group) for group in several)
    found = [cluster.link_between(group[0], group[1]) for group in several]
    default = NodeInterconnect()
    bandwidths = [link.bandwidth_bytes_per_s for link in found if link]
    latencies = [link.latency_s for link in found if link]
    if None in found:
        bandwidths.append(default.bandwidth_bytes_per_s)
        latencies.append(default.latency_s)
    return NodeInterconnect(
        widths=tuple(
            width
            for width in tensor_widths(architecture, num_devices)
            if width > 1 and width in tensor
        ),
        bandwidth_bytes_per_s=min(bandwidths),
        latency_s=max(latencies),
    )


def model_reference(
    model: Path, architecture: Architecture, fingerprint: str
) -> ModelReference:
    """Returns the name of a model for strategies."""
    return ModelReference(
        path=str(model),
        architecture=architecture.family,
        num_layers=architecture.num_layers,
        fingerprint=fingerprint,
    )


def config_alone(
    model: Path, architecture: Architecture, *, group_size: int
) -> tuple[ModelReference, Sensitivity]:
    """Returns the name and the assumed sensitivities of a model without weights."""
    fingerprint = config_fingerprint(architecture)
    reference = model_reference(model, architecture, fingerprint)
    sensitivity = assumed_sensitivity(
        architecture, name=model.name, fingerprint=fingerprint, group_size=group_size
    )
    return reference, sensitivity


def catalogue_digest(cluster: Cluster | None = None) -> str:
    """Returns a digest of the catalogue of devices, as provenance has it.

    If a cluster has figures of its own, they are part of it.
    """
    content = (resources.files("llmpq_jax.arch") / "catalogue.toml").read_bytes()
    name = "roofline of catalogue"
    if cluster is not None and cluster.kinds:
        content += "".join(map(to_toml, cluster.kinds)).encode()
        name += " and cluster file"
    return f"{name} sha256:{hashlib.sha256(content).hexdigest()}"
