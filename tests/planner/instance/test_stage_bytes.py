"""Bytes of many stages at once against a plain sum over each one's layers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from tests.planner.random_instances import case_lists


@given(
    case_lists(max_cases=1),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_stages_need_what_their_parts_need(subproblems, chosen, is_first, is_last):
    (instance,) = subproblems
    num_bits = len(instance.bits)
    stages = [[b % num_bits for b in columns] for columns in chosen]
    counts = np.array([np.bincount(s, minlength=num_bits) for s in stages])
    devices = list(range(instance.num_devices))
    found = stage_bytes(instance, devices, counts, is_first=is_first, is_last=is_last)
    for j in devices:
        for c, columns in enumerate(stages):
            size = sum(
                instance.layer_bytes[j, b] + instance.kv_bytes[j] for b in columns
            )
            needs = [instance.workspace_bytes[j, b] for b in columns]
            if is_first:
                size += instance.embedding_bytes[j]
                needs.append(instance.embedding_workspace_bytes[j])
            else:
                size += instance.received_bytes
            if is_last:
                size += instance.head_bytes[j]
                needs.append(instance.head_workspace_bytes[j])
            expected = size + max(needs) + instance.buffer_bytes
            assert found.total[j, c] == found.terms(j, c).total == expected
