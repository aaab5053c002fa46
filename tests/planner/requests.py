"""Requests over a made-up cluster, small enough to plan in a test."""

from __future__ import annotations

import pytest

from llmpq_jax.arch.architecture import Architecture, Rope
from llmpq_jax.costmodel.latency import VocabularyLayer
from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.measurements import (
    LayerTime,
    LinkTime,
    Measurements,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import USUAL_BITS, Bits, HeadBits
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.workload import Workload

MIB = 1 << 20
SLOWNESS = {"fast": 1.0, "slow": 3.0}
# Seconds of a layer with a cache of 8 bits, as a share of one of 16.
CACHE_8 = 0.9
# Slow enough that it matters how hidden states are sent.
LINK_S_PER_BYTE = 1e-9
# Speed-up of a layer over several devices, for each of them.
MESH_SPEEDUP = 0.8
# Seconds per row.
END_RATES: tuple[tuple[VocabularyLayer, HeadBits, float], ...] = (
    ("embedding", 16, 1e-8),
    ("head", 16, 4e-6),
    ("head", 8, 3e-6),
)
LOSSES: tuple[tuple[Bits, float], ...] = ((8, 0.01), (4, 0.3))


def architecture(num_layers=4):
    return Architecture(
        family="llama",
        num_layers=num_layers,
        hidden_size=256,
        intermediate_size=512,
        num_heads=8,
        num_kv_heads=4,
        head_dim=32,
        vocabulary_size=2048,
        max_positions=1024,
        activation="silu",
        is_gated=True,
        norm="rms",
        norm_eps=1e-6,
        position="rope",
        rope=Rope(theta=1e4),
        layer_windows=(None,) * num_layers,
        embedding_size=256,
    )


def cluster(*kinds, memory_mib=64, capacity=None, uses=()):
    return Cluster(
        name="room",
        nodes=(
            Node(
                name="node0",
                shared_capacity=capacity,
                devices=tuple(
                    Device(
                        name=f"cpu:{number}",
                        kind=kind,
                        platform="cpu",
                        memory_bytes=memory_mib * MIB,
                        use=uses[number] if uses else "any",
                    )
                    for number, kind in enumerate(kinds)
                ),
            ),
        ),
    )


def measurements(*, bits=USUAL_BITS, kinds=tuple(SLOWNESS), caches=(16,), tensor=(1,)):
    sizes = [(rows, length) for rows in (1, 4, 16) for length in (16, 64, 256)]
    layers = [
        LayerTime(
            kind=kind,
            phase=phase,
            bits=width,
            kv_bits=kv_bits,
            tensor=devices,
            batch=rows,
            length=length,
            seconds=SLOWNESS[kind]
            * _layer_s(phase, width, rows, length)
            * (1.0 if kv_bits == 16 else CACHE_8)
            / (1.0 if devices == 1 else MESH_SPEEDUP * devices),
            spread=0.01,
            workspace_bytes=1024 * rows * (length if phase == "prefill" else 4),
        )
        for kind in kinds
        for width in bits
        for kv_bits in caches
        for devices in tensor
        for phase in ("prefill", "decode")
        for rows, length in sizes
    ]
    ends = [
        VocabularyLayerTime(
            kind=kind,
            part=part,
            bits=width,
            rows=rows,
            seconds=SLOWNESS[kind] * (1e-5 + rate * rows),
            spread=0.01,
            workspace_bytes=2048 * rows,
        )
        for kind in kinds
        for part, width, rate in END_RATES
        for rows in (1, 16, 256)
    ]
    links = [
        LinkTime(
            source_kind=source,
            target_kind=target,
            num_bytes=size,
            seconds=2e-5 + size * LINK_S_PER_BYTE,
            spread=0.01,
        )
        for source in kinds
        for target in kinds
        for size in (1_000, 1_000_000)
    ]
    return Measurements(
        model="made-up",
        layer_shape="made-up",
        activations="float32",
        group_size=128,
        kinds=(),
        layers=tuple(layers),
        vocabulary_layers=tuple(ends),
        links=tuple(links),
    )


def sensitivity(num_layers=4):
    return Sensitivity(
        model="made-up",
        fingerprint="made-up",
        method="made-up",
        unit="nothing",
        group_size=128,
        head_8=0.005,
        kv_8=0.004,
        wire_8=0.002,
        layers=tuple(
            LayerSensitivity(layer=layer, bits=bits, omega=loss * (1 + layer % 3))
            for layer in range(num_layers)
            for bits, loss in LOSSES
        ),
    )


def request(*kinds, num_layers=4, memory_mib=64, **changes):
    """A request for a pipeline over devices of these kinds."""
    given = {
        "architecture": architecture(num_layers),
        "model": ModelReference(
            path="made-up",
            architecture="llama",
            num_layers=num_layers,
            fingerprint="made-up",
        ),
        "cluster": cluster(*kinds, memory_mib=memory_mib),
        "measurements": measurements(),
        "sensitivity": sensitivity(num_layers),
        "workload": Workload(batch=4, prompt_length=48, new_tokens=16),
    }
    return PlanRequest(**(given | changes))


def _layer_s(phase, bits, rows, length):
    weights = 5e-4 * {16: 1.0, 8: 0.7, 4: 0.6}[bits]
    if phase == "prefill":
        return 1e-4 + 1e-6 * rows * length + 1e-10 * rows * length**2
    return weights + 2e-5 * rows + 1e-8 * rows * length


def reason(asked):
    """Plans what has no plan, and returns the one line that says why."""
    with pytest.raises(InfeasibleError) as caught:
        plan(asked)
    message = str(caught.value)
    assert "\n" not in message
    return message
