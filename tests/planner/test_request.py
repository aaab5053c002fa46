"""A request is checked when it is made."""

from __future__ import annotations

import pytest

from llmpq_jax.planner.pins import BitsPin, LayerPin
from tests.planner.requests import cluster, request


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": ()}, "bits is empty"),
        ({"head_bits": ()}, "head_bits is empty"),
        ({"kv_bits": ()}, "kv_bits is empty"),
        ({"wire_bits": ()}, "wire_bits is empty"),
        ({"tensor": ()}, r"tensor is \(\): expected at least one width"),
        ({"tensor": (0, 1)}, r"tensor is \(0, 1\): expected"),
        ({"theta": -1.0}, r"theta is -1\.0: expected a finite number of seconds"),
        ({"theta": float("inf")}, "theta is inf"),
        ({"omega_budget": -0.5}, r"omega_budget is -0\.5: expected a finite number"),
        ({"prefill": 5}, "prefill is pinned to 5 rows: expected 1 to 4, the batch"),
        ({"decode": 0}, "decode is pinned to 0 rows"),
        ({"pins": (LayerPin(first=2, end=5, device="node0/cpu:0"),)}, "within 0:4"),
        ({"pins": (BitsPin(first=2, end=2, bits=8),)}, "END behind FIRST"),
        (
            {"pins": (LayerPin(first=0, end=1, device="node0/cpu:7"),)},
            "layers 0:1 on node0/cpu:7: expected one of node0/cpu:0",
        ),
        (
            {"pins": (BitsPin(first=0, end=1, bits=4),), "bits": (16, 8)},
            r"layers 0:1 at 4 bits: expected one of \[8, 16\]",
        ),
        (
            {
                "pins": (
                    BitsPin(first=0, end=2, bits=4),
                    BitsPin(first=1, end=3, bits=8),
                )
            },
            "layers 0:2 at 4 bits, and layers 1:3 at 8 bits: expected each layer in one",
        ),
        (
            {
                "pins": (LayerPin(first=0, end=1, device="node0/cpu:0"),),
                "cluster": cluster("fast", "fast", uses=("never", "any")),
            },
            "which is to be left idle",
        ),
    ],
)
def test_a_wrong_argument_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        request("fast", **changes)
