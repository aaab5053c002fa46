"""Plans keep their limits, say what they cost, and obey the laws of planning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.latency import fit_latency
from llmpq_jax.costmodel.quality import total_omega
from llmpq_jax.costmodel.workspace import fit_workspace
from llmpq_jax.errors import InfeasibleError, MeasurementError, TimeLimitError
from llmpq_jax.planner import PlanRequest, Progress, plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.pins import LayerPin
from llmpq_jax.planner.search import branch_and_bound as search_module
from llmpq_jax.schema.measurements import DispatchTime
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import LINK_S_PER_BYTE, cluster, measurements, request
from tests.referees import enumeration
from tests.referees.stage_memory import stage_memory

GAP = 1e-6
# Fewer subproblems, and a budget that leaves all of the memory to speed.
SHORT = {"omega_budget": 9.0, "prefill": 2}


def planned(asked: PlanRequest, **options: Any) -> Any:
    """A strategy whose optional parts are all there, which its type cannot say."""
    return plan(asked, **options)


def latency(asked):
    return planned(asked, relative_gap=GAP).predicted.latency_s


def test_a_plan_is_the_best_of_all_there_are():
    asked = request("slow", "fast", num_layers=3, head_bits=(16, 8), memory_mib=8)
    found = planned(asked, relative_gap=GAP)
    subproblems = all_subproblems(
        make_problem(asked), omega_budget=found.quality.budget
    )
    best = enumeration.best_by_enumeration(subproblems)
    assert found.certificate.objective == pytest.approx(best, rel=1e-6)


def test_predicted_memory_is_that_of_the_memory_model():
    asked = request("slow", "fast", "slow", memory_mib=5)
    found = planned(asked)
    assert len(found.stages) > 1
    workspace = fit_workspace(asked.measurements, asked.architecture)
    for number, stage in enumerate(found.stages):
        terms = stage_memory(
            asked.architecture,
            kind=asked.cluster.find(stage.device).device.kind,
            bits=stage.bits,
            is_first=number == 0,
            is_last=number == len(found.stages) - 1,
            workload=asked.workload,
            micro_batch=found.micro_batch,
            precision=found.precision,
            workspace=workspace,
        )
        assert stage.predicted.memory_bytes == terms.total
        assert stage.predicted.memory_bytes <= stage.predicted.allowed_bytes


def test_predicted_seconds_of_a_lone_stage_are_those_of_its_layers_and_ends():
    asked = request("fast", prefill=2, decode=4)
    (stage,) = planned(asked).stages
    model = fit_latency(asked.measurements)
    layers = [
        model.decode_s("fast", bits, rows=4, workload=asked.workload)
        for bits in stage.bits
    ]
    ends = model.vocabulary_layer_s(
        "fast", "decode", "embedding", rows=4
    ) + model.vocabulary_layer_s("fast", "decode", "head", rows=4)
    assert stage.predicted.decode_s == pytest.approx(sum(layers) + ends)


def test_by_default_no_more_is_lost_than_at_8_bits():
    asked = request("slow", "fast", memory_mib=8)
    found = planned(asked)
    uniform = total_omega(asked.sensitivity, (8,) * 4)
    assert found.quality.omega <= uniform * (1 + 1e-9)
    assert found.quality.omega == pytest.approx(
        total_omega(asked.sensitivity, found.bits)
    )
    assert "wholly at 8 bits" in found.quality.note


def test_scarce_memory_costs_the_least_quality_that_fits():
    asked = request("fast", memory_mib=5)
    found = planned(asked)
    assert set(found.bits) == {8, 4}
    assert "the least that fits" in found.quality.note
    subproblems = all_subproblems(make_problem(asked), omega_budget=None)
    lowest = enumeration.min_omega_by_enumeration(subproblems)
    assert found.quality.omega == pytest.approx(lowest)
    assert found.quality.budget == pytest.approx(lowest)


def test_theta_alone_trades_quality_for_seconds():
    fast = planned(request("slow", theta=0.0, omega_budget=100.0))
    exact = planned(request("slow", theta=1e6))
    assert set(fast.bits) == {4}
    assert set(exact.bits) == {16}
    assert exact.quality.budget is None
    assert exact.certificate.objective == pytest.approx(exact.predicted.latency_s)


def test_a_head_at_8_bits_is_taken_where_its_omega_is_paid_for():
    either = request("fast", head_bits=(16, 8), omega_budget=0.0)
    assert planned(either).precision.head_bits == 16
    assert planned(replace(either, omega_budget=1.0)).precision.head_bits == 8


def test_pinned_micro_batches_are_kept():
    found = planned(request("slow", "fast", prefill=2, decode=4))
    assert (found.micro_batch.prefill, found.micro_batch.decode) == (2, 4)


def test_devices_are_used_or_left_idle_as_the_cluster_says():
    free = request("slow", "fast")
    pinned = cluster("slow", "fast", uses=("always", "never"))
    assert "node0/cpu:1" in {stage.device for stage in planned(free).stages}
    (stage,) = planned(replace(free, cluster=pinned)).stages
    assert stage.device == "node0/cpu:0"


def test_precisions_that_were_not_measured_are_not_chosen():
    asked = request("fast", measurements=measurements(bits=(16, 8)), omega_budget=10.0)
    assert set(planned(asked).bits) <= {16, 8}


def test_a_shared_machine_makes_no_plan_faster():
    asked = request("fast", "fast", memory_mib=8)
    shared = replace(asked, cluster=cluster("fast", "fast", memory_mib=8, capacity=1.0))
    assert latency(shared) > latency(asked)


@pytest.mark.parametrize(("num_stages", "calls"), [(1, 64 / 8), (2, 2 * 64)])
def test_a_whole_model_has_the_dispatch_overhead_of_a_call_for_eight_steps(
    num_stages, calls
):
    call_s = 0.25
    pins = tuple(
        LayerPin(
            first=4 * number // num_stages,
            end=4 * (number + 1) // num_stages,
            device=f"node0/cpu:{number}",
        )
        for number in range(num_stages)
    )
    free = request(
        *["fast"] * num_stages,
        workload=Workload(batch=4, prompt_length=48, new_tokens=65),
        prefill=4,
        decode=4,
        pins=pins,
        bits=(8,),
    )
    call = DispatchTime(kind="fast", seconds=call_s, spread=0.0)
    charged = replace(free, measurements=replace(free.measurements, dispatch=(call,)))
    before, after = (planned(asked).predicted for asked in (free, charged))
    more_s = after.prefill_s - before.prefill_s
    assert more_s == pytest.approx(num_stages * call_s, rel=1e-4)
    more_s = after.decode_s - before.decode_s
    assert more_s == pytest.approx(calls * call_s, rel=1e-4)


def test_one_new_token_has_no_decode():
    asked = request("slow", workload=Workload(batch=4, prompt_length=48, new_tokens=1))
    assert planned(asked).predicted.decode_s == 0.0


BOTH_CACHES = measurements(caches=(16, 8))
EITHER_CACHE = {"measurements": BOTH_CACHES, "kv_bits": (16, 8)}


@pytest.mark.parametrize("memory_mib", [6, 8])
def test_with_the_caches_precision_free_a_plan_is_the_best_of_all(memory_mib):
    asked = request(
        *("slow", "fast"), num_layers=3, memory_mib=memory_mib, **EITHER_CACHE
    )
    found = planned(asked, relative_gap=GAP)
    subproblems = all_subproblems(
        make_problem(asked), omega_budget=found.quality.budget
    )
    assert {subproblem.kv_bits for subproblem in subproblems} == {16, 8}
    best = enumeration.best_by_enumeration(subproblems)
    assert found.certificate.objective == pytest.approx(best, rel=1e-6)
    assert "cache at 8 or 16 bits" in found.certificate.covers


def test_a_cache_at_8_bits_is_taken_where_its_omega_is_paid_for():
    tight = request("fast", omega_budget=0.0039, **EITHER_CACHE)
    assert planned(tight).precision.kv_bits == 16
    found = planned(replace(tight, omega_budget=0.0041))
    assert found.precision.kv_bits == 8
    assert found.quality.omega == pytest.approx(0.004)
    assert found.quality.note is None


def test_uniform_int8_stays_feasible_where_head_and_cache_are_pinned_to_8_bits():
    asked = request("fast", measurements=BOTH_CACHES, kv_bits=(8,), head_bits=(8,))
    found = planned(replace(asked, bits=(8,)))
    expected = total_omega(asked.sensitivity, (8,) * 4, head_bits=8, kv_bits=8)
    assert found.quality.omega == pytest.approx(expected)
    assert found.quality.budget == pytest.approx(expected)


def test_a_cache_without_a_sensitivity_is_noted():
    asked = request("fast", measurements=BOTH_CACHES, kv_bits=(8,), omega_budget=1.0)
    without_loss = replace(asked.sensitivity, kv_8=0.0)
    found = planned(replace(asked, sensitivity=without_loss))
    assert "counts the cache's 8 bits as 0" in found.quality.note


MESHES = measurements(tensor=(1, 2, 4))
ANY_WIDTH = {"measurements": MESHES, "tensor": (1, 2, 4)}


@pytest.mark.parametrize("kinds", [("slow", "slow", "fast"), ("slow",) * 4])
@pytest.mark.parametrize("memory_mib", [4, 8])
def test_with_meshes_a_plan_is_the_best_of_all(kinds, memory_mib):
    asked = request(*kinds, num_layers=3, memory_mib=memory_mib, **SHORT, **ANY_WIDTH)
    found = planned(asked, relative_gap=GAP)
    subproblems = all_subproblems(
        make_problem(asked), omega_budget=found.quality.budget
    )
    best = enumeration.best_by_enumeration(subproblems)
    assert found.certificate.objective == pytest.approx(best, rel=1e-6)
    names = [name for stage in found.stages for name in stage.devices]
    assert len(names) == len(set(names))
    assert "equal devices of a node" in found.certificate.covers


def test_a_mesh_costs_what_latency_and_memory_model_say_of_it():
    asked = request("slow", "slow", "fast", **SHORT, **{**ANY_WIDTH, "tensor": (2,)})
    (stage,) = planned(asked).stages
    assert stage.mesh.devices == ("node0/cpu:0", "node0/cpu:1")
    assert stage.mesh.tensor == 2
    found = planned(asked)
    terms = stage_memory(
        asked.architecture,
        kind="slow",
        bits=stage.bits,
        is_first=True,
        is_last=True,
        workload=asked.workload,
        micro_batch=found.micro_batch,
        precision=found.precision,
        workspace=fit_workspace(asked.measurements, asked.architecture),
        tensor=2,
    )
    assert stage.predicted.memory_bytes == terms.total
    model = fit_latency(asked.measurements)
    rows = found.micro_batch.decode
    layers = [
        model.decode_s("slow", bits, rows=rows, workload=asked.workload, tensor=2)
        for bits in stage.bits
    ]
    ends = model.vocabulary_layer_s("slow", "decode", "embedding", rows=rows)
    ends += model.vocabulary_layer_s("slow", "decode", "head", rows=rows)
    # One device sends its half of the logits to the other.
    gather = 2e-5 + rows * 2048 // 2 * 4 * 1e-9
    assert stage.predicted.decode_s == pytest.approx(sum(layers) + ends + gather)


def test_each_device_of_a_mesh_receives_the_hidden_states():
    asked = request("slow", "slow", "fast", "fast", **SHORT, **ANY_WIDTH)
    problem = make_problem(asked)
    subproblem = all_subproblems(problem, omega_budget=None)[0]
    unit = {(u.kind, u.width): j for j, u in enumerate(problem.execution_units)}
    one, two = unit["fast", 1], unit["fast", 2]
    slow = unit["slow", 1]
    twice = 2 * subproblem.hop_s[1, 0, slow, one]
    assert subproblem.hop_s[1, 0, slow, two] == pytest.approx(twice)
    from_two = subproblem.hop_s[1, 0, unit["slow", 2], one]
    assert from_two == subproblem.hop_s[1, 0, slow, one]


def test_devices_of_a_group_that_must_be_used_all_are():
    uses = ("always",) * 4
    pinned = cluster(*("fast",) * 4, memory_mib=16, uses=uses)
    asked = request("fast", cluster=pinned, num_layers=2, **SHORT, **ANY_WIDTH)
    found = planned(asked)
    assert sum(len(stage.devices) for stage in found.stages) == 4


def test_widths_that_were_not_measured_or_do_not_fit_are_not_offered():
    asked = request("slow", "slow", "fast", tensor=(1, 2, 4), measurements=MESHES)
    assert {
        execution_unit.width for execution_unit in make_problem(asked).execution_units
    } == {1, 2}
    plain = replace(asked, measurements=measurements())
    assert make_problem(plain).device_groups == ()
    with pytest.raises(MeasurementError, match="no stage of 4 devices can be made"):
        make_problem(replace(asked, tensor=(4,)))


@pytest.mark.parametrize("budget", [0.0, 0.0015, 0.1, 9.0])
def test_with_the_precision_of_hops_free_a_plan_is_the_best_of_all(budget):
    asked = request(
        *("slow", "fast", "slow"),
        num_layers=3,
        memory_mib=5,
        omega_budget=budget + 0.3,
        prefill=2,
        wire_bits=(16, 8),
    )
    found = planned(asked, relative_gap=GAP)
    subproblems = all_subproblems(make_problem(asked), omega_budget=budget + 0.3)
    best = enumeration.best_by_enumeration(subproblems)
    assert found.certificate.objective == pytest.approx(best, rel=1e-6)
    assert "each hop at 8 or 16 bits" in found.certificate.covers
    losses = total_omega(asked.sensitivity, found.bits)
    losses += 0.002 * sum(stage.wire_bits == 8 for stage in found.stages)
    assert found.quality.omega == pytest.approx(losses)


def test_a_hop_goes_at_8_bits_where_its_omega_is_paid_for():
    apart = (
        LayerPin(first=0, end=2, device="node0/cpu:0"),
        LayerPin(first=2, end=4, device="node0/cpu:1"),
    )
    asked = request(
        "fast", "fast", bits=(16,), pins=apart, prefill=2, wire_bits=(16, 8)
    )
    before, after = (
        planned(replace(asked, omega_budget=budget)) for budget in (0.0019, 0.0021)
    )
    assert [stage.wire_bits for stage in before.stages] == [16, 16]
    assert [stage.wire_bits for stage in after.stages] == [8, 16]
    assert after.quality.omega == pytest.approx(0.002)
    # Two prompts of 48 tokens are a prefill micro-batch.
    subproblem = all_subproblems(make_problem(asked), omega_budget=None)[0]
    tokens = 2 * 48
    expected = 2e-5 + tokens * (256 + 4) * LINK_S_PER_BYTE
    assert subproblem.hop_s[0, 1, 0, 1] == pytest.approx(expected)
    expected = 2e-5 + tokens * 256 * 4 * LINK_S_PER_BYTE
    assert subproblem.hop_s[0, 0, 0, 1] == pytest.approx(expected)


def test_hops_pinned_to_8_bits_are_allowed_by_the_default_budget():
    asked = request("slow", "fast", bits=(8,), memory_mib=5, wire_bits=(8,))
    found = planned(asked)
    assert len(found.stages) > 1
    losses = total_omega(asked.sensitivity, found.bits)
    assert found.quality.omega == pytest.approx(losses + 0.002)
    assert "wholly at 8 bits" in found.quality.note


def test_hops_without_a_sensitivity_are_noted():
    asked = request("slow", "fast", bits=(8,), memory_mib=5, wire_bits=(8,))
    without_loss = replace(asked.sensitivity, wire_8=0.0)
    found = planned(replace(asked, sensitivity=without_loss))
    assert "counts hops at 8 bits as 0" in found.quality.note


@given(st.integers(4, 12), st.integers(1, 3))
def test_wider_stages_may_only_help(memory_mib, num_slow):
    kinds = ("slow",) * num_slow + ("fast",)
    asked = request(*kinds, num_layers=3, memory_mib=memory_mib, **SHORT)
    wide = replace(asked, measurements=MESHES, tensor=(1, 2))
    try:
        narrow_s = latency(asked)
    except InfeasibleError:
        return
    assert latency(wide) <= narrow_s * (1 + 2 * GAP)


@given(st.integers(5, 20), st.integers(0, 12))
def test_more_memory_is_never_slower(memory_mib, more_mib):
    # Σω is held, since more memory would otherwise be spent on quality.
    asked = request("slow", "fast", num_layers=3, memory_mib=memory_mib, **SHORT)
    roomy = replace(
        asked, cluster=cluster("slow", "fast", memory_mib=memory_mib + more_mib)
    )
    assert latency(roomy) <= latency(asked) * (1 + 2 * GAP)


@given(st.sampled_from(["slow", "fast"]), st.integers(6, 20))
def test_a_faster_device_is_never_slower(other, memory_mib):
    slow = request("slow", other, num_layers=3, memory_mib=memory_mib, **SHORT)
    fast = replace(slow, cluster=cluster("fast", other, memory_mib=memory_mib))
    assert latency(fast) <= latency(slow) * (1 + 2 * GAP)


@given(st.floats(0.01, 1.0), st.floats(1.0, 3.0))
def test_a_looser_budget_is_never_slower(budget, factor):
    tight = request("slow", "fast", num_layers=3, omega_budget=budget, prefill=2)
    loose = replace(tight, omega_budget=budget * factor)
    assert latency(loose) <= latency(tight) * (1 + 2 * GAP)


def test_the_time_limit_returns_the_incumbent_with_its_gap():
    asked = request("slow", "fast", "slow", "fast", num_layers=12, memory_mib=16)
    found = planned(asked, time_limit_s=0.0)
    assert 0 < found.certificate.gap < 1
    assert found.certificate.bound < found.certificate.objective
    assert found.certificate.objective == pytest.approx(found.predicted.latency_s)


def test_no_plan_in_time_is_not_no_plan():
    """Of many pairs of micro-batches only one is looked at, and says nothing of others."""
    workload = Workload(batch=16, prompt_length=200, new_tokens=50)
    asked = request("fast", "slow", memory_mib=20, workload=workload, num_layers=8)
    assert planned(asked)
    with pytest.raises(
        TimeLimitError,
        match=r"no plan was found in 0 µs, and it is not proven that there is none: exp",
    ):
        planned(asked, time_limit_s=0.0)


def test_ctrl_c_keeps_the_incumbent():
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    asked = request("slow", "fast", "slow", num_layers=8, memory_mib=12)
    found = planned(asked, progress=interrupt)
    assert found.certificate.gap > 0


def test_ctrl_c_without_an_incumbent_is_raised_on(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "ShortestPath", interrupt)
    with pytest.raises(KeyboardInterrupt):
        planned(request("slow"))


def test_a_pipeline_may_leave_the_cluster_files_order():
    """The last layers' devices come first in the file: only they can embed."""
    full = measurements()
    ends = tuple(
        row
        for row in full.vocabulary_layers
        if (row.kind, row.part) in {("slow", "embedding"), ("fast", "head")}
    )
    asked = request("fast", "slow", measurements=replace(full, vocabulary_layers=ends))
    first, last = planned(asked).stages
    assert (first.device, last.device) == ("node0/cpu:1", "node0/cpu:0")


@given(st.permutations(["slow", "fast", "slow"]), st.integers(6, 20))
def test_the_order_of_the_cluster_file_changes_no_objective(kinds, memory_mib):
    asked = request(
        "slow", "fast", "slow", num_layers=3, memory_mib=memory_mib, **SHORT
    )
    other = replace(asked, cluster=cluster(*kinds, memory_mib=memory_mib))
    assert latency(other) == pytest.approx(latency(asked), rel=2 * GAP)


@given(st.sampled_from(["slow", "fast"]), st.integers(6, 20))
def test_one_more_device_is_never_slower(more, memory_mib):
    asked = request("slow", "fast", num_layers=3, memory_mib=memory_mib, **SHORT)
    wider = replace(asked, cluster=cluster("slow", "fast", more, memory_mib=memory_mib))
    assert latency(wider) <= latency(asked) * (1 + 2 * GAP)


def test_the_certificate_says_what_it_covers():
    found = planned(request("slow", "fast"))
    assert found.certificate.gap <= 1e-4
    assert found.certificate.bound <= found.certificate.objective
    assert "9 micro-batch pairs" in found.certificate.covers
    assert "all orders and subsets" in found.certificate.covers
    assert found.certificate.solver.startswith("HiGHS ")
