"""Bytes of many stages at once against a plain sum over each one's layers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from tests.planner.random_instances import subproblem_lists


@given(
    subproblem_lists(max_number=1),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_stages_need_what_their_parts_need(subproblems, chosen, is_first, is_last):
    (instance,) = subproblems
    d = instance.devices
    num_bits = len(instance.bits)
    stages = [[b % num_bits for b in own] for own in chosen]
    counts = np.array([np.bincount(s, minlength=num_bits) for s in stages])
    devices = list(range(instance.num_devices))
    found = stage_bytes(instance, devices, counts, is_first=is_first, is_last=is_last)
    for j in devices:
        for c, own in enumerate(stages):
            size = sum(d.layer_bytes[j, b] + d.kv_bytes[j] for b in own)
            needs = [d.workspace_bytes[j, b] for b in own]
            if is_first:
                size += d.embedding_bytes[j]
                needs.append(d.embedding_workspace_bytes[j])
            else:
                size += instance.received_bytes
            if is_last:
                size += d.head_bytes[j]
                needs.append(d.head_workspace_bytes[j])
            expected = size + max(needs) + instance.buffer_bytes
            assert found.total[j, c] == found.terms(j, c).total == expected
