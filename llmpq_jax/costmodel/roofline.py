"""Measurements that nobody made: seconds from the figures of a catalogue.

A layer takes as long as its arithmetic at the maker's rate, or as its traffic at the
maker's bandwidth, whichever is longer, both times a share that programs reach; weights of
8 and 4 bits are written once as 16 bits and read again where there are many tokens. A
layer over w devices of a node does a w-th of the work on each, except for what all of them
repeat, and sums its hidden states over them twice, after attention and after the MLP: a
ring all-reduce of S bytes takes 2·(w − 1) transfers of S/w bytes (Patarasuk and Yuan, 2009,
"Bandwidth optimal all-reduce algorithms for clusters of workstations"). The
rows come as measurements do, but their kinds say `source = "roofline"`, and so does every
plan that is made of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.catalogue import DeviceKind
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.tensors import head_tensors, layer_tensors, tensors_bytes
from llmpq_jax.costmodel.prefill_memory import prefill_shape, prefill_working_bytes
from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS, bucket_length
from llmpq_jax.schema.measurements import (
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    Phase,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    ALL_BITS,
    Activations,
    Bits,
    HeadBits,
    KvBits,
    kv_token_bytes,
)
from llmpq_jax.schema.workload import Workload

# Assumptions, not figures: what well-written programs reach of a maker's numbers, and
# what starting the few dozen programs of a layer costs.
FLOPS_EFFICIENCY = 0.6
BANDWIDTH_EFFICIENCY = 0.8
LAYER_LAUNCH_S = 40e-6
VOCABULARY_LAYER_LAUNCH_S = 40e-6
# Two kinds without a [[link]] are joined like this: a PCIe 3 slot, one way.
LINK_BYTES_PER_S = 12e9
LINK_LATENCY_S = 30e-6

HEADS: tuple[HeadBits, ...] = (16, 8)
CACHES: tuple[KvBits, ...] = (16, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeInterconnect:
    """How devices of a kind work together inside one node.

    Attributes:
        widths: Devices that a layer may be spread over, each above 1.
        bandwidth_bytes_per_s: Of one transfer between two of them, one way.
        latency_s: Before its first byte.
    """

    widths: tuple[int, ...] = ()
    bandwidth_bytes_per_s: float = LINK_BYTES_PER_S
    latency_s: float = LINK_LATENCY_S

    def reduce_s(self, num_bytes: int, width: int) -> float:
        """Returns the seconds of a ring all-reduce; 0 on one device."""
        share = num_bytes / width / self.bandwidth_bytes_per_s
        return 2 * (width - 1) * (self.latency_s + share)


def roofline(
    architecture: Architecture,
    kinds: Iterable[DeviceKind],
    *,
    workload: Workload,
    rows: Iterable[int],
    name: str,
    activations: Activations = "bfloat16",
    group_size: int = 128,
    interconnects: Mapping[str, NodeInterconnect] | None = None,
) -> Measurements:
    """Foretells every row a plan of this workload may ask for.

    Args:
        architecture: Of the model.
        kinds: Of device.
        workload: Its lengths are the only ones foretold.
        rows: Of micro-batches.
        name: Of the model, for people.
        activations: Type of hidden states.
        group_size: Of int4 groups.
        interconnects: By kind, where layers may be spread over several devices.
    """
    interconnects = interconnects or {}
    kinds, sizes = tuple(kinds), sorted(set(rows))
    prompts = workload.prompt_buckets
    slots = bucket_length(workload.context_length)
    lengths: list[tuple[Phase, int]] = [("prefill", tokens) for tokens in prompts]
    lengths.append(("decode", slots))
    of_layer = [
        _layer(
            architecture,
            kind,
            phase,
            bits,
            kv_bits,
            num,
            length,
            slots,
            activations,
            group_size,
            width,
            interconnects.get(kind.name, _ALONE),
        )
        for kind in kinds
        for width in (1, *interconnects.get(kind.name, _ALONE).widths)
        for phase, length in lengths
        for bits in ALL_BITS
        for kv_bits in CACHES
        for num in sizes
    ]
    of_ends = [
        row
        for kind in kinds
        for row in _ends(architecture, kind, sizes, prompts, activations, group_size)
    ]
    return Measurements(
        model=name,
        layer_shape=layer_shape_fingerprint(architecture),
        activations=activations,
        group_size=group_size,
        kinds=tuple(
            MeasuredKind(
                kind=kind.name,
                device=kind.source,
                platform=kind.platform,
                jax_version="none",
                kernel_path="roofline",
                date=datetime.datetime.now(datetime.UTC).date().isoformat(),
                source="roofline",
            )
            for kind in kinds
        ),
        layers=tuple(of_layer),
        vocabulary_layers=tuple(of_ends),
        links=tuple(_links(kinds)),
    )


def _layer(
    architecture: Architecture,
    kind: DeviceKind,
    phase: Phase,
    bits: Bits,
    kv_bits: KvBits,
    rows: int,
    length: int,
    slots: int,
    activations: Activations,
    group_size: int,
    width: int,
    inside: NodeInterconnect,
) -> LayerTime:
    a = architecture
    tokens = length if phase == "prefill" else 1
    tensors = layer_tensors(a)
    cut = {"group_size": group_size, "tensor_width": width}
    weights = tensors_bytes(tensors, bits=bits, **cut)
    plain = tensors_bytes(tensors, bits=16, **cut)
    size = ACTIVATION_BYTES[activations]
    cache = kv_token_bytes(a.num_kv_heads // width, a.head_dim, size, kv_bits=kv_bits)
    # A product with a weight of two bytes is two operations, an addition among them.
    products = float(plain) * rows * tokens
    attention = 4.0 * rows * tokens * length * a.num_heads * a.head_dim / width
    # Hidden states are whole on each device, what is between up and down is cut.
    inner = a.intermediate_size // width
    numbers = 8 * a.hidden_size + 3 * inner
    traffic = weights + rows * length * cache + rows * tokens * numbers * size
    if bits < 16 and rows * tokens > _FEW_ROWS:
        traffic += 2 * plain
    widest = max(inner, a.num_heads * a.head_dim // width)
    reduced = inside.reduce_s(rows * tokens * a.hidden_size * size, width)
    unpacked = 2 * a.hidden_size * widest if bits < 16 else 0
    chunked_slots = None
    if phase == "prefill":
        shape = prefill_shape(
            rows=rows,
            tokens=length,
            slots=slots,
            chunk_tokens=PREFILL_CHUNK_TOKENS,
            cache_rows=rows,
        )
        worked_in = prefill_working_bytes(
            a, shape, activations=activations, kv_bits=kv_bits, tensor=width
        )
        chunked_slots = slots if shape.is_chunk else None
    else:
        worked_in = rows * (4 * a.hidden_size + 2 * inner) * size
    return LayerTime(
        kind=kind.name,
        phase=phase,
        bits=bits,
        tensor=width,
        kv_bits=kv_bits,
        batch=rows,
        length=length,
        slots=chunked_slots,
        seconds=_seconds(kind, products + attention, traffic)
        + LAYER_LAUNCH_S
        + 2 * reduced,
        spread=0.0,
        workspace_bytes=worked_in + unpacked,
    )


_ALONE = NodeInterconnect()
# Up to so many rows a product reads packed weights as it goes.
_FEW_ROWS = 32


def _ends(
    architecture: Architecture,
    kind: DeviceKind,
    sizes: list[int],
    prompts: tuple[int, ...],
    activations: Activations,
    group_size: int,
) -> Iterator[VocabularyLayerTime]:
    a = architecture
    size = ACTIVATION_BYTES[activations]
    tokens = {num * prompt for num in sizes for prompt in prompts}
    for rows in sorted({*sizes, *tokens}):
        hidden = rows * a.hidden_size * size
        yield VocabularyLayerTime(
            kind=kind.name,
            part="embedding",
            rows=rows,
            seconds=_seconds(kind, 0.0, 2 * hidden) + VOCABULARY_LAYER_LAUNCH_S,
            spread=0.0,
            workspace_bytes=hidden,
        )
    for bits in HEADS:
        weights = tensors_bytes(head_tensors(a), bits=bits, group_size=group_size)
        for rows in sizes:
            logits = rows * a.vocabulary_size * 4
            flops = 2.0 * rows * a.embedding_size * a.vocabulary_size
            yield VocabularyLayerTime(
                kind=kind.name,
                part="head",
                bits=bits,
                rows=rows,
                seconds=_seconds(kind, flops, weights + 2 * logits)
                + VOCABULARY_LAYER_LAUNCH_S,
                spread=0.0,
                workspace_bytes=2 * logits,
            )


def _links(kinds: tuple[DeviceKind, ...]) -> Iterator[LinkTime]:
    for source in kinds:
        for target in kinds:
            for num_bytes in (1_000, 100_000_000):
                yield LinkTime(
                    source_kind=source.name,
                    target_kind=target.name,
                    num_bytes=num_bytes,
                    seconds=LINK_LATENCY_S + num_bytes / LINK_BYTES_PER_S,
                    spread=0.0,
                )


def _seconds(kind: DeviceKind, flops: float, num_bytes: float) -> float:
    arithmetic = flops / (FLOPS_EFFICIENCY * kind.flops)
    return max(
        arithmetic, num_bytes / (BANDWIDTH_EFFICIENCY * kind.bandwidth_bytes_per_s)
    )
