"""Rules whose rows lose all their variables still say what they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.search.node_mip.arc_flow import constraints, formulate
from llmpq_jax.planner.search.node_mip.highs import solve
from llmpq_jax.planner.search.time_limit import OutOfTimeError
from tools.write_golden_lp import arc_example


@given(
    st.sets(st.integers(0, 3)),
    st.sampled_from([(16,), (8,), (16, 8)]),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.05, 0.055, 0.06, 0.25, 0.9]),
    st.booleans(),
)
def test_whatever_stages_are_left_the_program_has_the_plans_there_are(
    kept, wire_bits, is_lossless, budget, must_use
):
    candidates = some_of(sorted(kept), wire_bits, is_lossless, budget, must_use)
    written = formulate(candidates)
    outcome = solve(written.model, time_limit_s=60.0, relative_gap=0.0)
    assert outcome.has_solution == has_plan(candidates)


NAMES = constraints()


@given(st.integers(0, 40))
def test_writing_ends_where_the_time_does(num_rows):
    checked = []

    def check_time():
        checked.append(None)
        if len(checked) > num_rows:
            raise OutOfTimeError

    try:
        formulate(arc_example(), check_time=check_time)
    except OutOfTimeError:
        assert len(checked) == num_rows + 1
    else:
        assert len(NAMES) <= len(checked) <= num_rows


def some_of(kept, wire_bits, is_lossless, budget, must_use):
    """The golden example with some of its stages, and with other losses and pins."""
    whole = arc_example()
    taken = [whole.instance.wire_bits.index(bits) for bits in wire_bits]
    instance = replace(
        whole.instance,
        wire_bits=wire_bits,
        wire_omega=whole.instance.wire_omega[taken],
        omega_budget=budget,
    )
    types = replace(
        whole.types,
        hop_s=whole.types.hop_s[:, taken],
        must_use=np.array([False, must_use]),
    )
    return replace(
        whole,
        instance=instance,
        types=types,
        stages=tuple(whole.stages[s] for s in kept),
        type=whole.type[kept],
        first=whole.first[kept],
        end=whole.end[kept],
        seconds=whole.seconds[:, kept],
        omega=whole.omega[kept] * (0.0 if is_lossless else 1.0),
    )


def has_plan(candidates):
    """Tries every set of stages and every precision of its hops."""
    sizes = range(1, len(candidates.stages) + 1)
    return any(
        is_plan(candidates, chosen, wires)
        for size in sizes
        for chosen in combinations(range(len(candidates.stages)), size)
        for wires in product(candidates.instance.wire_omega, repeat=size - 1)
    )


def is_plan(candidates, chosen, wires):
    instance, types = candidates.instance, candidates.types
    stages = sorted(chosen, key=lambda s: candidates.first[s])
    ends = [0, *candidates.end[stages]]
    starts = [*candidates.first[stages], instance.num_layers]
    taken = types.by_group(np.bincount(candidates.type[stages], minlength=2) * 1.0)
    omega = instance.fixed_omega + candidates.omega[stages].sum() + sum(wires)
    return (
        ends == starts
        and all(a < b for a, b in pairwise(starts))
        and (taken <= types.group_sizes).all()
        and (~types.must_use | (taken == types.group_sizes)).all()
        and (instance.omega_budget is None or omega <= instance.omega_budget + 1e-9)
    )
