"""A request is checked when it is made."""

from __future__ import annotations

import pytest

from tests.solver.requests import request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": ()}, "bits is empty"),
        ({"head_bits": ()}, "head_bits is empty"),
        ({"kv_bits": ()}, "kv_bits is empty"),
        ({"tensor": ()}, r"tensor is \(\): expected at least one width"),
        ({"tensor": (0, 1)}, r"tensor is \(0, 1\): expected"),
        ({"theta": -1.0}, r"theta is -1\.0: expected a finite number of seconds"),
        ({"theta": float("inf")}, "theta is inf"),
        ({"omega_budget": -0.5}, r"omega_budget is -0\.5: expected a finite number"),
        ({"prefill": 5}, "prefill is pinned to 5 rows: expected 1 to 4, the batch"),
        ({"decode": 0}, "decode is pinned to 0 rows"),
    ],
)
def test_a_wrong_argument_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        request("fast", **changes)
