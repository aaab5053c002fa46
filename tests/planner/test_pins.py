"""Pins are kept, the rest is the best around them, and impossible ones are named."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llmpq_jax.errors import InfeasibleError, MeasurementError
from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.pins import BitsPin, LayerPin, with_use
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, measurements, reason, request
from tests.referees import enumeration

SHORT = {"omega_budget": 9.0, "prefill": 2}
ON_SLOW = LayerPin(first=1, end=3, device="node0/cpu:0")
EARLY_16 = BitsPin(first=0, end=2, bits=16)


def holder(strategy, layer):
    (stage,) = [s for s in strategy.stages if s.layers[0] <= layer < s.layers[1]]
    return stage.device


@pytest.mark.parametrize("pins", [(ON_SLOW,), (EARLY_16,), (ON_SLOW, EARLY_16)])
def test_around_pins_a_plan_is_the_best_of_all(pins):
    asked = request("slow", "fast", num_layers=3, memory_mib=8, pins=pins, **SHORT)
    found = plan(asked, relative_gap=1e-6)
    assert found.certificate is not None
    subproblems = all_subproblems(make_problem(asked), omega_budget=9.0)
    best = enumeration.best_by_enumeration(subproblems)
    assert found.certificate.objective == pytest.approx(best, rel=1e-6)
    for pin in pins:
        assert f"; {pin} pinned" in found.certificate.covers
        for layer in range(pin.first, pin.end):
            if isinstance(pin, LayerPin):
                assert holder(found, layer) == pin.device
            else:
                assert found.bits[layer] == pin.bits


def test_without_the_pin_the_plan_is_another():
    asked = request("slow", "fast", num_layers=3, **SHORT)
    free = plan(asked)
    assert holder(free, 1) != ON_SLOW.device
    assert free.bits[0] != 16


def test_bits_pinned_below_8_are_allowed_by_the_default_budget():
    pin = BitsPin(first=0, end=1, bits=4)
    found = plan(request("fast", pins=(pin,)))
    assert found.quality is not None
    assert "omega held at that of a model wholly at 8 bits" in (
        found.quality.note or ""
    )
    assert found.bits[0] == 4


def test_a_pinned_device_serves_alone_and_the_others_may_be_meshes():
    wide = measurements(tensor=(1, 2))
    pin = LayerPin(first=0, end=1, device="node0/cpu:1")
    asked = request(
        *("slow",) * 3, measurements=wide, tensor=(1, 2), pins=(pin,), **SHORT
    )
    found = plan(asked)
    assert found.stages[0].device == "node0/cpu:1"
    assert found.stages[1].mesh is not None
    assert found.stages[1].mesh.devices == ("node0/cpu:0", "node0/cpu:2")


def test_a_pin_that_does_not_fit_is_named():
    pin = LayerPin(first=0, end=12, device="node0/cpu:0")
    asked = request("slow", "fast", num_layers=12, memory_mib=7, pins=(pin,))
    message = reason(asked)
    assert re.search(
        r"no plan fits with layers 0:12 on node0/cpu:0, and without it there is one",
        message,
    )
    assert plan(replace(asked, pins=())).stages


def test_pins_that_clash_together_are_all_named():
    """Layers 0 and 2 on one device, and layer 1 on another one: no run holds them."""
    pins = (
        LayerPin(first=0, end=1, device="node0/cpu:0"),
        LayerPin(first=1, end=2, device="node0/cpu:1"),
        LayerPin(first=2, end=3, device="node0/cpu:0"),
    )
    message = reason(request("slow", "fast", pins=pins))
    for pin in pins:
        assert str(pin) in message


def test_a_budget_that_a_pin_breaks_names_the_pin():
    pin = BitsPin(first=0, end=4, bits=4)
    message = reason(request("fast", pins=(pin,), omega_budget=0.1))
    assert "no plan fits with layers 0:4 at 4 bits" in message


def test_a_pin_that_does_not_fit_is_named_with_a_budget_that_nothing_keeps():
    pin = BitsPin(first=0, end=1, bits=16)
    asked = request(
        "fast",
        num_layers=3,
        memory_mib=4,
        workload=Workload(batch=2, prompt_length=16, new_tokens=1),
        bits=(16, 8),
        pins=(pin,),
        omega_budget=0.0,
    )
    message = reason(asked)
    assert message.startswith(
        "no plan fits with layers 0:1 at 16 bits, and without it there is one, but none with omega within 0;"
    )
    free = replace(asked, pins=(), omega_budget=None)
    assert plan(free).stages
    for half in (replace(free, pins=(pin,)), replace(free, omega_budget=0.0)):
        with pytest.raises(InfeasibleError):
            plan(half)


def test_a_device_left_idle_that_is_needed_is_named():
    room = with_use(cluster("fast", "fast", memory_mib=5), {"node0/cpu:1": "never"})
    message = reason(request("fast", num_layers=8, cluster=room))
    assert "no plan fits with node0/cpu:1 pinned idle" in message


def test_bits_that_were_not_measured_cannot_be_pinned():
    asked = request("fast", measurements=measurements(bits=(16, 8)))
    pin = BitsPin(first=0, end=1, bits=4)
    with pytest.raises(MeasurementError, match=r"layers 0:1 at 4 bits: .* measured"):
        make_problem(replace(asked, pins=(pin,)))


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'node0/cpu:9' is not in the cluster"):
        with_use(cluster("fast"), {"node0/cpu:9": "always"})
