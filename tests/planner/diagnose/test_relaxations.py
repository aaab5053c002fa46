"""Every change that is offered is solved again here, and a little less is not enough."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner import plan
from llmpq_jax.planner.diagnose.relaxations import repairs
from llmpq_jax.planner.pins import BitsPin, LayerPin
from llmpq_jax.schema.workload import Workload, workload_of_lengths
from tests.planner.requests import MIB, cluster, measurements, request

LONG = Workload(batch=16, prompt_length=200, new_tokens=50)
LONG_PROMPTS = workload_of_lengths([(900, 60)] + [(10, 4)] * 15)
ASKED = {
    "a long workload": request("fast", memory_mib=8, workload=LONG),
    "two devices": request("fast", "slow", memory_mib=6, workload=LONG, bits=(16,)),
    "prompts": request("fast", memory_mib=12, workload=LONG_PROMPTS),
    "high bits": request("fast", memory_mib=5, bits=(16, 8)),
    "bits at 16": request("fast", memory_mib=7, bits=(16,)),
    "a budget": request("fast", memory_mib=5, omega_budget=0.0),
    "an idle device": request(
        "fast", cluster=cluster("fast", "slow", memory_mib=4, uses=("any", "never"))
    ),
    "a pinned device": request(
        "fast",
        cluster=cluster("fast", "fast", memory_mib=4, uses=("always", "always")),
        workload=LONG,
    ),
    "far too little": request("fast", memory_mib=1, workload=LONG),
}


@pytest.mark.parametrize("name", ASKED)
def test_with_each_change_there_is_a_plan_and_without_there_is_none(name):
    asked = ASKED[name]
    with pytest.raises(InfeasibleError):
        plan(asked)
    found = list(repairs(asked))
    assert found
    for repair in found:
        assert plan(repair.request).stages, repair.text
    assert len({repair.text for repair in found}) == len(found)


def offered(asked, pattern):
    """The one repair whose text matches, and its number."""
    for repair in repairs(asked):
        if match := re.fullmatch(pattern, repair.text):
            return repair, float(match.group(1))
    pytest.fail(f"nothing like {pattern}")


def is_refused(asked):
    with pytest.raises(InfeasibleError):
        plan(asked)


def test_one_new_token_more_is_too_many():
    asked = request("fast", memory_mib=21, workload=replace(LONG, new_tokens=200))
    repair, number = offered(asked, r"at most (\d+) new tokens")
    assert repair.request.workload.new_tokens == number
    more = asked.workload.within(new_tokens=int(number) + 1)
    is_refused(replace(asked, workload=more))


def test_a_quarter_of_a_mebibyte_less_is_too_little():
    repair, number = offered(
        ASKED["a long workload"], r"([\d.]+) MiB more memory on node0/cpu:0"
    )
    (node_device,) = repair.request.cluster.node_devices
    assert node_device.device.memory_bytes == (8 + number) * MIB
    less = replace(
        node_device.device, memory_bytes=node_device.device.memory_bytes - MIB // 4
    )
    node = replace(node_device.node, devices=(less,))
    is_refused(
        replace(repair.request, cluster=replace(repair.request.cluster, nodes=(node,)))
    )


def test_one_device_fewer_is_too_few():
    asked = ASKED["a long workload"]
    repair, number = offered(asked, r"(\d+) more devices of kind fast")
    assert len(repair.request.cluster.node_devices) == 1 + number
    is_refused(replace(asked, cluster=cluster(*["fast"] * int(number), memory_mib=8)))


def test_a_device_that_is_idle_is_offered():
    texts = [repair.text for repair in repairs(ASKED["an idle device"])]
    assert "node0/cpu:1 used" in texts


def test_a_cache_of_8_bits_is_offered_where_it_was_measured():
    """And not where it was not."""
    asked = ASKED["a long workload"]
    full = measurements()
    small = tuple(replace(row, kv_bits=8) for row in full.layers)
    both = replace(full, layers=full.layers + small)
    asked = replace(asked, cluster=cluster("fast", memory_mib=16))
    offered = [r.text for r in repairs(replace(asked, measurements=both))]
    assert "the cache at 8 bits" in offered
    assert "the cache at 8 bits" not in [r.text for r in repairs(asked)]


def test_where_no_single_change_does_several_are_tried():
    """The smallest workload, too large by more than the bits or the head save."""
    smallest = Workload(batch=1, prompt_length=1, new_tokens=1)
    asked = request("fast", memory_mib=3, bits=(16,), workload=smallest)
    first, *others = [repair.text for repair in repairs(asked)]
    assert first == "the head at 8 bits and layers at 8 or 4 bits"
    assert all("device" in text or "memory" in text for text in others)


def test_a_pin_keeps_the_layers_that_fit_and_one_more_is_too_many():
    pin = LayerPin(first=0, end=12, device="node0/cpu:0")
    asked = request("slow", "fast", num_layers=12, memory_mib=7, pins=(pin,))
    is_refused(asked)
    shorter = [r for r in repairs(asked) if r.text.startswith("only layers 0:")]
    (repair,) = shorter
    (kept,) = repair.request.pins
    assert plan(repair.request).stages
    longer = replace(pin, end=kept.end + 1)
    is_refused(replace(asked, pins=(longer,)))


def test_a_pin_of_bits_is_offered_other_bits():
    pin = BitsPin(first=0, end=4, bits=16)
    asked = request("fast", memory_mib=7, pins=(pin,))
    is_refused(asked)
    found = {repair.text: repair for repair in repairs(asked)}
    assert "layers 0:4 at 8 bits" in found
    for repair in found.values():
        assert plan(repair.request).stages, repair.text


def test_pins_that_clash_together_are_offered_one_by_one_or_not_at_all():
    pins = (
        LayerPin(first=0, end=1, device="node0/cpu:0"),
        LayerPin(first=1, end=2, device="node0/cpu:1"),
        LayerPin(first=2, end=3, device="node0/cpu:0"),
    )
    asked = request("slow", "fast", pins=pins)
    texts = [repair.text for repair in repairs(asked)]
    assert texts[:3] == [f"without {pin}" for pin in pins]


def test_a_micro_batch_that_is_pinned_is_offered_others():
    work = Workload(batch=16, prompt_length=256, new_tokens=1)
    asked = request("fast", memory_mib=30, workload=work, prefill=16)
    is_refused(asked)
    found = {repair.text: repair.request for repair in repairs(asked)}
    free = found["other prefill micro-batches than 16"]
    assert free.prefill is None
    assert plan(free).micro_batch.prefill < 16


def test_what_is_tried_is_noted_meanwhile():
    notes = []
    found = list(repairs(ASKED["a long workload"], notes.append))
    assert notes[0] == "no plan fits; trying without one pin or another"
    helpful = [note for note in notes if note.startswith("would do: ")]
    assert helpful == [f"would do: {repair.text}" for repair in found]
