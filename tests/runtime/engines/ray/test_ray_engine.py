"""Stages on several machines of a Ray cluster, all on loopback."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.errors import StrategyError, WorkerFailedError
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.schema.precision import Bits
from tests.support.ray_machines import on_nodes, some_requests
from tests.support.tiny_models import make_strategy

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

# An example starts a process for each stage, which compiles.
_EXAMPLES = max(2, settings().max_examples // 20)


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[tuple[tuple[int, ...], list[Bits]]], int]:
    """Four layers cut into one to three stages of one or two devices, wires included."""
    num_stages = draw(st.integers(1, 3))
    cuts = sorted(draw(st.permutations([1, 2, 3]))[: num_stages - 1])
    bits = draw(st.lists(st.sampled_from([4, 8, 16]), min_size=4, max_size=4))
    stages, device = [], 0
    for first, end in itertools.pairwise([0, *cuts, 4]):
        width = draw(st.sampled_from([1, 1, 2]))
        stages.append((tuple(range(device, device + width)), bits[first:end]))
        device += width
    return stages, draw(st.sampled_from([8, 16]))


@settings(max_examples=_EXAMPLES)
@given(
    plans(),
    st.sampled_from([(1, 1), (2, 2), (1, 4), (4, 2)]),
    st.lists(st.sampled_from(["node0", "node1"]), min_size=3, max_size=3),
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from(["sockets", "calls", "transfer"]),
)
def test_any_plan_serves_the_tokens_of_the_local_engine(
    folder, start, plan, micro_batch, nodes, activations, transport
):
    stages, wire_bits = plan
    prefill, decode = micro_batch
    strategy = make_strategy(
        folder, stages, prefill=prefill, decode=decode, wire_bits=wire_bits
    )
    precision = replace(strategy.precision, activations=activations)
    strategy = replace(strategy, precision=precision)
    served = some_requests(7)
    with Pipeline.load(strategy) as local:
        expected = list(local.serve(served))
    apart = on_nodes(strategy, *nodes[: len(stages)])
    with Pipeline.load(apart, start=start(transport=transport)) as pipeline:
        assert list(pipeline.serve(served)) == expected
        assert list(pipeline.serve(served[:1])) == expected[:1]


def test_a_run_is_recorded_on_one_clock(two_stages, start):
    apart = on_nodes(two_stages, "node0", "node1")
    layers: list[int] = []
    with Pipeline.load(
        apart, start=start(), on_layer=lambda: layers.append(1)
    ) as pipeline:
        list(pipeline.serve(some_requests(4)))
        record = pipeline.batches[0]
        weight_bytes = pipeline.weight_bytes
        scores = pipeline.score([[1, 2, 3]])
    with Pipeline.load(two_stages) as local:
        assert local.weight_bytes == weight_bytes
        np.testing.assert_array_equal(local.score([[1, 2, 3]]), scores)
    assert len(layers) == 4
    ended = {
        (event.phase, event.micro_batch, event.step): event.ended_s
        for event in record.events
        if event.stage == 0
    }
    later = [event for event in record.events if event.stage == 1]
    assert len(later) == len(ended)
    for event in later:
        key = (event.phase, event.micro_batch, event.step)
        assert ended[key] <= event.received_s <= event.started_s <= event.ended_s
    assert all(event.received_s >= 0 for event in record.events)
    for times in record.stages:
        assert times.peak is not None
        assert times.peak.weights + times.peak.kv_cache == times.memory_bytes
        assert times.peak.peak_bytes > times.memory_bytes


def test_missing_machines_are_named(two_stages, start):
    apart = on_nodes(two_stages, "node0", "attic")
    with pytest.raises(
        DeviceFailedError,
        match=r"needs the nodes attic, .* \(its nodes: .*node0, node1\): start Ray there with --resources='\{\"llmpq_node:attic\": 1\}'",
    ):
        Pipeline.load(apart, start=start())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "a:b"])
def test_a_missing_cluster_is_an_error_of_one_line(two_stages, start, address):
    with pytest.raises(
        WorkerFailedError, match=f"no Ray cluster answers at '{address}'"
    ) as caught:
        Pipeline.load(two_stages, start=start(address=address))
    assert "\n" not in str(caught.value)


def test_an_error_of_a_worker_names_its_stage(two_stages, start):
    first, second = on_nodes(two_stages, "node0", "node1").stages
    stages = (first, replace(second, device="node1/tpu:0"))
    with pytest.raises(
        StrategyError,
        match="stage 1 on node1/tpu:0: device 'node1/tpu:0': JAX finds no",
    ):
        Pipeline.load(replace(two_stages, stages=stages), start=start())
