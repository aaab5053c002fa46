"""What a plan is made of where nothing can be measured: figures and a config.json."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.catalogue import read_catalogue
from llmpq_jax.arch.fingerprint import config_fingerprint
from llmpq_jax.arch.tensors import tensor_widths
from llmpq_jax.costmodel.assumed_sensitivity import assumed_sensitivity
from llmpq_jax.costmodel.device_roofline import NodeInterconnect
from llmpq_jax.costmodel.roofline import roofline
from llmpq_jax.planner.instance.micro_batches import micro_batches
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import ModelReference
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
    """Foretells what a plan may ask of every kind of device in a cluster.

    Args:
        model: Its folder.
        architecture: Of it.
        cluster: Whose kinds.
        workload: What is served.
        prefill: Pins the rows of a prefill micro-batch.
        decode: Pins the rows of a decode micro-batch.
        tensor: Devices of a node that a layer may be spread over.

    Raises:
        ClusterError: The catalogue lacks one of them.
    """
    catalogue = read_catalogue()
    used = dict.fromkeys(
        node_device.device.kind
        for node_device in cluster.node_devices
        if node_device.device.use != "never"
    )
    pairs = micro_batches(workload.batch, prefill=prefill, decode=decode)
    return roofline(
        architecture,
        [catalogue.find(kind) for kind in used],
        workload=workload,
        # Prompts that take the places of others are prefilled one by one.
        rows={1, *(rows for pair in pairs for rows in (pair.prefill, pair.decode))},
        name=model.name,
        interconnects={
            kind: _inside(cluster, kind, architecture, tensor) for kind in used
        },
    )


def _inside(
    cluster: Cluster, kind: str, architecture: Architecture, tensor: Collection[int]
) -> NodeInterconnect:
    """How a kind's devices reduce: by the slowest link of all nodes with several."""
    groups: dict[str, list[NodeDevice]] = {}
    for node_device in cluster.node_devices:
        if node_device.device.kind == kind and node_device.device.use != "never":
            groups.setdefault(node_device.node.name, []).append(node_device)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return NodeInterconnect()
    most = max(len(group) for group in several)
    found = [cluster.link_between(group[0], group[1]) for group in several]
    usual = NodeInterconnect()
    bandwidths = [link.bandwidth_bytes_per_s for link in found if link]
    latencies = [link.latency_s for link in found if link]
    if None in found:
        bandwidths.append(usual.bandwidth_bytes_per_s)
        latencies.append(usual.latency_s)
    return NodeInterconnect(
        widths=tuple(
            width
            for width in tensor_widths(architecture, most)
            if width > 1 and width in tensor
        ),
        bandwidth_bytes_per_s=min(bandwidths),
        latency_s=max(latencies),
    )


def config_alone(
    model: Path, architecture: Architecture, *, group_size: int
) -> tuple[ModelReference, Sensitivity]:
    """Names and judges a model whose weights are not there."""
    fingerprint = config_fingerprint(architecture)
    reference = ModelReference(
        path=str(model),
        architecture=architecture.family,
        num_layers=architecture.num_layers,
        fingerprint=fingerprint,
    )
    sensitivity = assumed_sensitivity(
        architecture, name=model.name, fingerprint=fingerprint, group_size=group_size
    )
    return reference, sensitivity


def catalogue_digest() -> str:
    """Names the catalogue a plan was made with."""
    content = (resources.files("llmpq_jax.arch") / "catalogue.toml").read_bytes()
    return f"roofline of catalogue sha256:{hashlib.sha256(content).hexdigest()}"
