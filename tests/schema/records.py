"""Hypothesis strategies for the records, as anyone could have written them."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import strategies as st

from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.measurements import (
    Accuracy,
    DispatchTime,
    Drift,
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    Observed,
    SharedCapacity,
    VocabularyLayerTime,
)
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity
from llmpq_jax.schema.solve_request import (
    BitsPin,
    LayerPin,
    PlannerChoices,
    QualityLimits,
    SearchLimits,
    SolveRequest,
    Sources,
)
from llmpq_jax.schema.strategy import (
    Certificate,
    Mesh,
    ModelReference,
    PrecisionChoice,
    Prediction,
    Provenance,
    Quality,
    Stage,
    StagePrediction,
    Strategy,
)
from llmpq_jax.schema.workload import MicroBatch, Workload

texts = st.text(max_size=12)
# No file has a NUL character in its name, so none is read in a path.
paths = st.text(st.characters(exclude_characters="\0"), max_size=12)
names = st.text(alphabet="abcdefghij0123456789-", min_size=1, max_size=8)
seconds = st.floats(min_value=1e-9, max_value=1e6)
fractions = st.floats(min_value=0, max_value=1)
sizes = st.integers(min_value=0, max_value=2**50)
counts = st.integers(min_value=1, max_value=4096)
bits: st.SearchStrategy[Bits] = st.sampled_from((4, 8, 16))
head_bits = st.sampled_from((8, 16))
activations = st.sampled_from(("float32", "bfloat16", "float16"))
workloads = st.builds(Workload, batch=counts, prompt_length=counts, new_tokens=counts)


@st.composite
def micro_batches(draw: st.DrawFn) -> MicroBatch:
    smaller, factor = draw(counts), draw(st.integers(min_value=1, max_value=8))
    pair = draw(st.permutations([smaller, smaller * factor]))
    return MicroBatch(prefill=pair[0], decode=pair[1])


@st.composite
def devices(draw: st.DrawFn, name: str) -> Device:
    memory_bytes = draw(st.integers(min_value=1, max_value=2**50))
    return Device(
        name=name,
        kind=draw(texts),
        platform=draw(st.sampled_from(("cpu", "cuda"))),
        memory_bytes=memory_bytes,
        reserve_bytes=draw(st.integers(min_value=0, max_value=memory_bytes - 1)),
        use=draw(st.sampled_from(("any", "always"))),
    )


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    nodes = tuple(
        Node(
            name=name,
            devices=tuple(
                draw(devices(device))
                for device in draw(st.lists(names, min_size=1, max_size=3, unique=True))
            ),
            shared_capacity=draw(st.none() | st.floats(min_value=1, max_value=64)),
            cores=draw(st.none() | counts),
        )
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    )
    ends = st.sampled_from([node.name for node in nodes])
    links = st.builds(
        Link,
        between=st.tuples(ends, ends),
        bandwidth_bytes_per_s=st.floats(min_value=1, max_value=1e12),
        latency_s=seconds,
    )
    return Cluster(
        name=draw(texts), nodes=nodes, links=tuple(draw(st.lists(links, max_size=3)))
    )


@st.composite
def stages(draw: st.DrawFn, layers: tuple[int, int], device_names: list[str]) -> Stage:
    num_layers = layers[1] - layers[0]
    width = len(device_names)
    return Stage(
        device=device_names[0] if width == 1 else None,
        mesh=Mesh(devices=tuple(device_names), tensor=width) if width > 1 else None,
        layers=layers,
        bits=tuple(draw(st.lists(bits, min_size=num_layers, max_size=num_layers))),
        predicted=draw(
            st.none()
            | st.builds(
                StagePrediction,
                prefill_s=seconds,
                decode_s=seconds,
                memory_bytes=sizes,
                allowed_bytes=sizes,
                memory=st.none()
                | st.builds(
                    MemoryTerms,
                    weights=sizes,
                    kv_cache=sizes,
                    embedding=sizes,
                    head=sizes,
                    workspace=sizes,
                    buffers=sizes,
                ),
            )
        ),
    )


layer_ranges = {"first": st.integers(0, 3), "end": st.integers(4, 9)}
sources = st.builds(
    Sources,
    cluster=names,
    measurements=names,
    sensitivity=st.none() | names,
) | st.builds(Sources, cluster=names, roofline=st.just(value=True))
planner_choices = st.builds(
    PlannerChoices,
    bits=st.sampled_from(((16, 8, 4), (16, 8), (16,))),
    head_bits=st.sampled_from(((16,), (16, 8))),
    tensor=st.sampled_from(((1,), (1, 2, 4, 8))),
    prefill_micro_batch=st.none() | counts,
    pin_layers=st.lists(st.builds(LayerPin, device=names, **layer_ranges)).map(tuple),
    pin_bits=st.lists(st.builds(BitsPin, bits=bits, **layer_ranges)).map(tuple),
    use=st.lists(names.map("used/{}".format)).map(tuple),
    leave_idle=st.lists(names.map("idle/{}".format)).map(tuple),
)
quality_limits = st.builds(
    QualityLimits, omega_budget=st.none() | fractions, theta=seconds
) | st.builds(QualityLimits, max_kl=seconds, validation_text=names, window=counts)
requests = st.builds(
    SolveRequest,
    sources=sources,
    choices=planner_choices,
    quality=quality_limits,
    search=st.builds(SearchLimits, time_limit_s=seconds, gap=fractions),
)


@st.composite
def strategies(draw: st.DrawFn) -> Strategy:
    num_layers = draw(st.integers(min_value=1, max_value=12))
    inner = st.sets(st.integers(min_value=1, max_value=max(1, num_layers - 1)))
    cuts = sorted({0, num_layers} | (draw(inner) if num_layers > 1 else set()))
    cut_stages = [
        draw(
            stages(
                (first, end),
                [f"node/{first}-{n}" for n in range(draw(st.integers(1, 3)))],
            )
        )
        for first, end in pairwise(cuts)
    ]
    return Strategy(
        model=ModelReference(
            path=draw(paths),
            architecture=draw(texts),
            num_layers=num_layers,
            fingerprint=draw(texts),
        ),
        workload=draw(workloads),
        micro_batch=draw(micro_batches()),
        precision=draw(
            st.builds(
                PrecisionChoice,
                activations=activations,
                head_bits=head_bits,
                group_size=st.sampled_from((32, 64, 128)),
            )
        ),
        stages=tuple(cut_stages),
        quality=draw(
            st.none()
            | st.builds(
                Quality,
                omega=fractions,
                budget=st.none() | fractions,
                method=texts,
                note=st.none() | texts,
            )
        ),
        predicted=draw(
            st.none()
            | st.builds(
                Prediction,
                prefill_s=seconds,
                decode_s=seconds,
                latency_s=seconds,
                throughput_tokens_per_s=seconds,
            )
        ),
        certificate=draw(
            st.none()
            | st.builds(
                Certificate,
                gap=fractions,
                objective=seconds,
                bound=seconds,
                covers=texts,
                solver=texts,
                seconds=seconds,
            )
        ),
        provenance=draw(
            st.none()
            | st.builds(
                Provenance,
                program=texts,
                command=texts,
                date=texts,
                cluster=texts,
                measurements=texts,
            )
        ),
        request=draw(st.none() | requests),
    )


def _rows(row: st.SearchStrategy, *, min_size: int = 0) -> st.SearchStrategy:
    return st.lists(row, min_size=min_size, max_size=4).map(tuple)


measurements = st.builds(
    Measurements,
    model=texts,
    layer_shape=texts,
    activations=activations,
    group_size=counts,
    kinds=_rows(
        st.builds(
            MeasuredKind,
            kind=texts,
            device=texts,
            platform=texts,
            jax_version=texts,
            driver=texts,
            kernel_path=texts,
            date=texts,
        ),
        min_size=1,
    ),
    layers=_rows(
        st.builds(
            LayerTime,
            kind=texts,
            phase=st.sampled_from(("prefill", "decode")),
            bits=bits,
            tensor=counts,
            held_out=st.booleans(),
            batch=counts,
            length=counts,
            seconds=seconds,
            spread=fractions,
            workspace_bytes=sizes,
        ),
        min_size=1,
    ),
    vocabulary_layers=_rows(
        st.builds(
            VocabularyLayerTime,
            kind=texts,
            part=st.sampled_from(("embedding", "head")),
            bits=head_bits,
            rows=counts,
            seconds=seconds,
            spread=fractions,
            workspace_bytes=sizes,
        ),
        min_size=1,
    ),
    dispatch=_rows(
        st.builds(
            DispatchTime,
            kind=texts,
            seconds=seconds,
            spread=fractions,
            back_to_back_seconds=st.just(0.0) | seconds,
        )
    ),
    links=_rows(
        st.builds(
            LinkTime,
            source_kind=texts,
            target_kind=texts,
            source_node=st.none() | texts,
            target_node=st.none() | texts,
            num_bytes=sizes,
            seconds=seconds,
            spread=fractions,
        )
    ),
    shared=_rows(
        st.builds(
            SharedCapacity,
            node=texts,
            phase=st.sampled_from([None, "prefill", "decode"]),
            num_devices=st.none() | st.integers(2, 64),
            capacity=st.floats(min_value=1e-6, max_value=64),
        )
    ),
    accuracy=_rows(
        st.builds(
            Accuracy,
            kind=texts,
            phase=st.sampled_from(("prefill", "decode")),
            bits=bits,
            tensor=counts,
            num_fitted=counts,
            num_held_out=counts,
            mean_error=fractions,
            largest_error=fractions,
            spread=fractions,
        )
    ),
    drift=_rows(
        st.builds(
            Drift,
            kind=texts,
            slowest=st.floats(min_value=1, max_value=64),
            fastest=st.floats(min_value=1e-6, max_value=1),
        )
    ),
    observed=_rows(
        st.builds(
            Observed,
            kind=texts,
            phase=st.sampled_from(("prefill", "decode")),
            predicted_s=seconds,
            measured_s=seconds,
            num_passes=counts,
            run=texts,
            record=texts,
            strategy=texts,
            date=texts,
        )
    ),
)

sensitivities = st.builds(
    Sensitivity,
    model=texts,
    fingerprint=texts,
    method=texts,
    unit=texts,
    group_size=counts,
    head_8=fractions,
    layers=_rows(
        st.builds(
            LayerSensitivity,
            layer=st.integers(min_value=0, max_value=200),
            bits=bits,
            omega=st.floats(min_value=0, max_value=math.nextafter(math.inf, 0)),
        ),
        min_size=1,
    ),
)
