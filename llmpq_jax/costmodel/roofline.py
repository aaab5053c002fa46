"""Measurements of devices that are not available, predicted from data-sheet figures.

A layer takes the longer of its arithmetic at the device's peak rate and its memory traffic
at the device's bandwidth, each at the efficiency that programs reach (the roofline model of
Williams, Waterman and Patterson, 2009). With many tokens, weights of 8 and 4 bits are
written once as 16 bits and read again. A layer over w devices of a node has 1/w of the work
on each, except for what all of them repeat, and sums its hidden states over them twice,
after attention and after the MLP: a ring all-reduce of S bytes takes 2·(w − 1) transfers of
S/w bytes (Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters
of workstations"). The rows have the form of measurements, but their kinds have
`source = "roofline"`, and so does every plan that is made from them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.catalogue import DeviceKind
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.tensors import head_tensors, tensors_bytes
from llmpq_jax.costmodel.device_roofline import (
    LINK_BYTES_PER_S,
    LINK_LATENCY_S,
    VOCABULARY_LAYER_LAUNCH_S,
    DeviceRoofline,
    NodeInterconnect,
)
from llmpq_jax.costmodel.memory import hidden_bytes
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.measurements import (
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    Phase,
    VocabularyLayer,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import USUAL_BITS, Activations, HeadBits, KvBits
from llmpq_jax.schema.workload import Workload

_HEAD_BITS: tuple[HeadBits, ...] = (16, 8)
_KV_BITS: tuple[KvBits, ...] = (16, 8)
_LOGIT_BYTES = 4
_LINK_BYTES = (1_000, 100_000_000)


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
    """Predicts every row that a plan of a workload may need, for some `rows` of micro-batches.

    `interconnects` are by kind, for kinds whose layers may be spread over several devices;
    by default none are.
    """
    kinds, sizes = tuple(kinds), sorted(set(rows))
    devices = [
        DeviceRoofline(
            kind=kind,
            interconnect=(interconnects or {}).get(kind.name, NodeInterconnect()),
            architecture=architecture,
            prompts=workload.prompt_buckets,
            slots=bucket_length(workload.context_length),
            activations=activations,
            group_size=group_size,
        )
        for kind in kinds
    ]
    return Measurements(
        model=name,
        layer_shape=layer_shape_fingerprint(architecture),
        activations=activations,
        group_size=group_size,
        kinds=tuple(map(_unmeasured_kind, kinds)),
        layers=tuple(row for device in devices for row in _layers(device, sizes)),
        vocabulary_layers=tuple(
            row
            for device in devices
            for row in (*_embeddings(device, sizes), *_heads(device, sizes))
        ),
        links=tuple(
            LinkTime(
                source_kind=source.name,
                target_kind=target.name,
                num_bytes=num_bytes,
                seconds=LINK_LATENCY_S + num_bytes / LINK_BYTES_PER_S,
                spread=0.0,
            )
            for source, target, num_bytes in product(kinds, kinds, _LINK_BYTES)
        ),
    )


def _unmeasured_kind(kind: DeviceKind) -> MeasuredKind:
    return MeasuredKind(
        kind=kind.name,
        device=kind.source,
        platform=kind.platform,
        jax_version="none",
        kernel_path="roofline",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        source="roofline",
    )


def _layers(device: DeviceRoofline, sizes: Iterable[int]) -> Iterator[LayerTime]:
    """Yields a layer's rows for these numbers of rows of a micro-batch."""
    lengths: list[tuple[Phase, int]] = [("prefill", each) for each in device.prompts]
    lengths.append(("decode", device.slots))
    widths = (1, *device.interconnect.widths)
    for width, (phase, length), bits, kv_bits, rows in product(
        widths, lengths, USUAL_BITS, _KV_BITS, sizes
    ):
        yield device.layer_row(
            phase=phase,
            bits=bits,
            kv_bits=kv_bits,
            rows=rows,
            length=length,
            width=width,
        )


def _embeddings(
    device: DeviceRoofline, sizes: Iterable[int]
) -> Iterator[VocabularyLayerTime]:
    """Yields the embedding's rows, for micro-batches of either phase."""
    tokens = {num * prompt for num in sizes for prompt in device.prompts}
    for rows in sorted({*sizes, *tokens}):
        hidden = hidden_bytes(
            device.architecture, num_tokens=rows, activations=device.activations
        )
        yield _row(device, "embedding", 16, rows, (0.0, 2 * hidden), hidden)


def _heads(
    device: DeviceRoofline, sizes: Iterable[int]
) -> Iterator[VocabularyLayerTime]:
    """Yields the head's rows, one token per row of a micro-batch."""
    a = device.architecture
    for bits in _HEAD_BITS:
        weights = tensors_bytes(
            head_tensors(a), bits=bits, group_size=device.group_size
        )
        for rows in sizes:
            logits = rows * a.vocabulary_size * _LOGIT_BYTES
            flops = 2.0 * rows * a.embedding_size * a.vocabulary_size
            work = (flops, weights + 2 * logits)
            yield _row(device, "head", bits, rows, work, 2 * logits)


def _row(
    device: DeviceRoofline,
    part: VocabularyLayer,
    bits: HeadBits,
    rows: int,
    work: tuple[float, float],
    workspace_bytes: int,
) -> VocabularyLayerTime:
    """Returns a row of a part from its operations and its bytes of traffic."""
    return VocabularyLayerTime(
        kind=device.kind.name,
        part=part,
        bits=bits,
        rows=rows,
        seconds=device.seconds(*work) + VOCABULARY_LAYER_LAUNCH_S,
        spread=0.0,
        workspace_bytes=workspace_bytes,
    )
