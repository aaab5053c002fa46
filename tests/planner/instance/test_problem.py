"""Records that do not belong together are refused before anything is solved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from llmpq_jax.errors import MeasurementError, SpecError
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.schema.measurements import MeasuredKind
from tests.planner.requests import cluster, measurements, request


def refused(message: str, *, error: type[SpecError] = MeasurementError, **changes: Any):
    with pytest.raises(error, match=message):
        make_problem(request("fast", **changes))


def test_measurements_of_other_activations_are_refused():
    refused("activations is float32, the plan wants bfloat16", activations="bfloat16")


def test_measurements_of_another_group_size_are_refused():
    refused("group_size is 128, the plan wants 64", group_size=64)


def test_a_kind_that_was_not_measured_is_named_with_its_device():
    slow = measurements(kinds=("slow",))
    refused("nothing on 'fast', the kind of node0/cpu:0", measurements=slow)


def test_a_kind_that_is_never_used_need_not_be_measured():
    pair = cluster("slow", "fast", uses=("any", "never"))
    asked = request("slow", cluster=pair, measurements=measurements(kinds=("slow",)))
    (node_device,) = make_problem(asked).node_devices
    assert node_device.name == "node0/cpu:0"


def test_bits_that_no_device_serves_are_refused():
    refused(
        r"no layer at any of \[4\] bits on 'fast'",
        bits=(4,),
        measurements=measurements(bits=(16, 8)),
    )


def test_only_bits_that_some_device_serves_are_kept():
    asked = request("fast", measurements=measurements(bits=(16, 8)))
    assert make_problem(asked).bits == (16, 8)


def test_a_plan_reads_the_rows_of_its_own_cache():
    full = measurements()
    slower = tuple(
        replace(row, kv_bits=8, seconds=3 * row.seconds) for row in full.layers
    )
    both = replace(full, layers=full.layers + slower)
    workload = request("fast").workload
    problem = make_problem(request("fast", measurements=both, kv_bits=(16, 8)))
    seconds = [
        problem.fitted[kv_bits].latency.prefill_s("fast", 8, rows=1, workload=workload)
        for kv_bits in problem.kv_bits
    ]
    assert seconds[1] == pytest.approx(3 * seconds[0])
    refused("no layer with a cache of 8 bits: .* --kv-bits 8", kv_bits=(8,))


def test_a_cache_that_was_not_measured_is_not_offered():
    assert make_problem(request("fast", kv_bits=(16, 8))).kv_bits == (16,)


@pytest.mark.parametrize("part", ["embedding", "head"])
def test_an_end_that_was_measured_nowhere_is_refused(part):
    full = measurements()
    ends = tuple(row for row in full.vocabulary_layers if row.part != part)
    refused(
        f"no {part} at 16 bits on any of",
        measurements=replace(full, vocabulary_layers=ends),
    )


def test_sensitivities_of_another_model_are_refused():
    asked = request("fast")
    other = replace(asked.sensitivity, fingerprint="other")
    refused("fingerprint other, expected made-up", error=SpecError, sensitivity=other)


def test_sensitivities_of_another_group_size_are_refused():
    other = replace(request("fast").sensitivity, group_size=32)
    refused("group_size is 32, the plan wants 128", error=SpecError, sensitivity=other)


SOURCES: tuple[tuple[str, Literal["measured", "roofline"]], ...] = (
    ("slow", "measured"),
    ("fast", "roofline"),
)


def test_measured_and_predicted_kinds_are_not_mixed():
    full = measurements()
    kinds = tuple(
        MeasuredKind(
            kind=kind,
            device=kind,
            platform="cpu",
            jax_version="none",
            kernel_path="none",
            date="2026-01-01",
            source=source,
        )
        for kind, source in SOURCES
    )
    asked = request("slow", "fast", measurements=replace(full, kinds=kinds))
    with pytest.raises(
        MeasurementError, match=r"fast predicted .*, slow measured: expected one or"
    ):
        make_problem(asked)
    alone = replace(asked, cluster=cluster("fast"))
    assert make_problem(alone).source == "roofline"
