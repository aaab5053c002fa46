"""No baseline beats the joint plan at its own quality."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.baselines.compare import compare
from tests.planner.requests import request

GAP = 1e-4


@given(
    st.lists(st.sampled_from(["slow", "fast"]), min_size=1, max_size=3),
    st.integers(3, 12),
)
def test_the_joint_plan_is_never_slower_nor_worse(kinds, memory_mib):
    asked = request(*kinds, num_layers=4, memory_mib=memory_mib)
    rows = compare(asked, time_limit_s=30.0, relative_gap=GAP)
    assert [row.method for row in rows] == [
        "uniform",
        "memory-proportional",
        "PipeEdge",
        "PipeEdge, micro-batches searched",
        "adabits",
        "transfer",
    ]
    for row in rows:
        if row.ratio is not None:
            assert row.ratio >= 1.0
            assert row.joint_omega is not None
            assert row.omega is not None
            assert row.joint_omega <= row.omega * (1 + 1e-9)
            assert row.gap is not None
            assert row.gap <= GAP * (1 + 1e-6)


def test_searching_its_micro_batches_never_slows_pipeedge():
    rows = {
        row.method: row
        for row in compare(request("slow", "fast"), time_limit_s=30.0, relative_gap=GAP)
    }
    searched = rows["PipeEdge, micro-batches searched"].latency_s
    assert searched is not None
    own = rows["PipeEdge"].latency_s
    assert own is None or searched <= own


def test_a_baseline_that_does_not_fit_says_so():
    rows = compare(
        request("slow", "slow", memory_mib=2), time_limit_s=5.0, relative_gap=GAP
    )
    assert all(row.latency_s is None and row.ratio is None for row in rows)
