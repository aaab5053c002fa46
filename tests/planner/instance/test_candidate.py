"""Assigning precisions again changes what is lost and nothing else."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.candidate import Candidate, evaluate, with_min_omega
from tests.planner.random_instances import subproblem_lists
from tools.write_golden_lp import example


@given(subproblem_lists(max_number=1, max_layers=5), st.data())
def test_the_best_assignment_loses_the_least_and_costs_the_same(instances, data):
    (instance,) = instances
    number = instance.num_layers
    bits_indices = tuple(
        data.draw(st.integers(0, len(instance.bits) - 1)) for _ in range(number)
    )
    given_one = Candidate(devices=(0,), bits_indices=(bits_indices,))
    assigned = with_min_omega(instance, given_one)
    before, after = evaluate(instance, given_one), evaluate(instance, assigned)
    lowest = min(
        instance.omega[range(number), list(order)].sum()
        for order in permutations(bits_indices)
    )
    assert after.omega == pytest.approx(instance.fixed_omega + lowest)
    assert after.memory_bytes == before.memory_bytes
    assert after.seconds.latency_s == pytest.approx(before.seconds.latency_s)


def test_an_evaluation_adds_up_by_hand():
    """Two layers, at 8 and 4 bits, then a hop to one layer at 8, in six tokens."""
    candidate = Candidate(devices=(0, 1), bits_indices=((0, 1), (0,)))
    found = evaluate(example(), candidate)
    first, hop, second = 0.31 + 3 + 5 + 1.1, 9.0, 0.32 + 7 + 2.2
    assert found.stages_s[0] == pytest.approx((first, second))
    alone = first + hop + second + 3 * second
    # The first stage keeps two of the machine's devices busy.
    machine = 4 * (2 * first + second)
    assert machine > alone
    assert found.seconds.prefill_s == pytest.approx(0.6 * alone + 0.4 * machine)
    first, hop, second = 0.031 + 0.3 + 0.2 + 0.01, 0.9, 0.032 + 0.7 + 0.12
    assert found.stages_s[1] == pytest.approx((first, second))
    round_s = max(2 * hop, first + hop + second)
    alone = first + hop + second + hop + 4 * round_s
    machine = 5 * 2 * (2 * first + second)
    assert machine > alone
    assert found.seconds.decode_s == pytest.approx(0.4 * alone + 0.6 * machine)
    assert found.omega == pytest.approx(0.05 + 0.1 + 0.5 + 0.3)
    assert found.objective == pytest.approx(found.seconds.latency_s + 10 * found.omega)
    assert found.memory_bytes == (8 + 4 + 2 * 2 + 30 + 6 + 1, 8 + 2 + 20 + 14 + 1 + 2)
    assert not found.fits, "omega is 0.95 and the budget 0.9"


def test_memory_decides_whether_a_plan_fits():
    instance = example()
    candidate = Candidate(devices=(1,), bits_indices=((0, 0, 0),))
    # Layers, embedding, head, workspace of the head, hidden states that it sends.
    need = 3 * 10 + 30 + 20 + 14 + 1
    assert evaluate(instance, candidate).memory_bytes == (need,)
    assert not evaluate(instance, candidate).fits
    instance.devices.allowed_bytes[1] = need
    assert evaluate(instance, candidate).fits


def test_what_is_not_supported_takes_forever():
    candidate = Candidate(devices=(1,), bits_indices=((1, 1, 1),))
    assert np.isinf(evaluate(example(), candidate).seconds.latency_s)
