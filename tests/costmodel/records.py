"""Small records that the cost model tests share."""

from __future__ import annotations

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.measurements import (
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import Activations, Bits, HeadBits


def architecture():
    return Architecture(
        family="opt",
        num_layers=3,
        hidden_size=128,
        intermediate_size=256,
        num_heads=8,
        num_kv_heads=4,
        head_dim=16,
        vocabulary_size=512,
        max_positions=300,
        activation="relu",
        is_gated=False,
        norm="layer",
        norm_eps=1e-5,
        position="learned",
        layer_windows=(None, None, None),
        embedding_size=128,
    )


def layer_time(
    phase,
    batch,
    length,
    seconds,
    *,
    kind="cpu",
    bits: Bits = 8,
    workspace=0,
    spread=0.0,
    held_out=False,
):
    return LayerTime(
        kind=kind,
        phase=phase,
        bits=bits,
        batch=batch,
        length=length,
        held_out=held_out,
        seconds=seconds,
        spread=spread,
        workspace_bytes=workspace,
    )


def vocabulary_layer_time(part, rows, seconds, *, bits: HeadBits = 16, workspace=0):
    return VocabularyLayerTime(
        kind="cpu",
        part=part,
        bits=bits,
        rows=rows,
        seconds=seconds,
        spread=0.0,
        workspace_bytes=workspace,
    )


def measured_kind(kernel_path, kind="cpu"):
    return MeasuredKind(
        kind=kind,
        device="made-up",
        platform="cpu",
        jax_version="0.0",
        kernel_path=kernel_path,
        date="2026-01-31",
    )


def measurements(*rows, activations: Activations = "float32"):
    """Collects rows of all types in a record."""
    return Measurements(
        model="made-up",
        layer_shape="made-up",
        activations=activations,
        group_size=128,
        kinds=tuple(row for row in rows if isinstance(row, MeasuredKind)),
        layers=tuple(row for row in rows if isinstance(row, LayerTime)),
        vocabulary_layers=tuple(
            row for row in rows if isinstance(row, VocabularyLayerTime)
        ),
        links=tuple(row for row in rows if isinstance(row, LinkTime)),
    )


def two_nodes(*links):
    return Cluster(
        name="two",
        nodes=tuple(
            Node(
                name=name,
                devices=tuple(
                    Device(
                        name=f"cpu:{number}",
                        kind=kind,
                        platform="cpu",
                        memory_bytes=1 << 20,
                    )
                    for number, kind in enumerate(kinds)
                ),
            )
            for name, kinds in (("a", ("fast", "slow")), ("b", ("slow",)))
        ),
        links=tuple(
            Link(between=between, bandwidth_bytes_per_s=bandwidth, latency_s=latency)
            for between, bandwidth, latency in links
        ),
    )
