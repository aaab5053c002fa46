from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from llmpq_jax.schema.strategy import Certificate, Quality, Strategy
from llmpq_jax.schema.toml import decode_record
from tests.schema import records

STAGES = [
    {"device": "node0/cpu:0", "layers": [0, 2], "bits": [16, 8]},
    {"device": "node0/cpu:1", "layers": [2, 4], "bits": [8, 4]},
]
MODEL = {
    "path": "tiny",
    "architecture": "llama",
    "num_layers": 4,
    "fingerprint": "sha256:0",
}
SIZES = {"batch": 8, "prompt_length": 16, "new_tokens": 4}
GOOD = {
    "model": MODEL,
    "workload": SIZES,
    "micro_batch": {"prefill": 2, "decode": 4},
    "precision": {},
    "stage": STAGES,
}


def read(**changes) -> Strategy:
    return decode_record(
        Strategy, GOOD | changes, where="strategy.toml", error=StrategyError
    )


def with_second_stage(**changes) -> list:
    return [STAGES[0], STAGES[1] | changes]


def test_a_strategy_needs_no_predictions():
    strategy = read()
    assert strategy.bits == (16, 8, 8, 4)
    assert [stage.devices for stage in strategy.stages] == [
        ("node0/cpu:0",),
        ("node0/cpu:1",),
    ]


@given(records.strategies())
def test_stages_tile_the_model(strategy):
    covered = [n for stage in strategy.stages for n in range(*stage.layers)]
    assert covered == list(range(strategy.model.num_layers))
    assert len(strategy.bits) == sum(stage.num_layers for stage in strategy.stages)
    assert len(strategy.bits) == strategy.model.num_layers
    assert all(a.layers[1] == b.layers[0] for a, b in pairwise(strategy.stages))


@given(records.strategies())
def test_every_device_is_in_one_stage(strategy):
    names = [name for stage in strategy.stages for name in stage.devices]
    assert len(set(names)) == len(names)
    for stage in strategy.stages:
        assert (stage.mesh is None) == (len(stage.devices) == 1)


MESH = {"devices": ["node0/cpu:1", "node0/cpu:2"], "tensor": 2}


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"mesh": MESH}, r"stage of layers \[2, 4\] has both or neither of device and"),
        ({"device": None}, r"has both or neither of device and mesh: expected exactly"),
        (
            {"device": None, "mesh": MESH | {"tensor": 3}},
            r"stage\[1\].mesh: mesh has 2 devices and tensor = 3: expected the same num",
        ),
        (
            {"device": None, "mesh": {"devices": ["node0/cpu:1"], "tensor": 1}},
            "mesh has 1 devices and tensor = 1: expected the same number, 2 or more",
        ),
        (
            {"device": None, "mesh": {"devices": ["node0/cpu:1"] * 2, "tensor": 2}},
            r"mesh names a device twice: \['node0/cpu:1', 'node0/cpu:1'\]",
        ),
        (
            {"layers": [4, 2]},
            r"layers = \[4, 2\]: expected \[first, end\)",
        ),
        ({"layers": [-1, 1]}, r"layers = \[-1, 1\]: expected"),
        (
            {"bits": [8]},
            r"stage of layers \[2, 4\] lists 1 bits: expected 2, one per l",
        ),
        (
            {"bits": [8, 3]},
            r"stage\[1\].bits\[1\]: found 3, input should be 4, 8, 16 or 32",
        ),
        ({"wire_bits": 4}, r"stage\[1\].wire_bits: found 4, input should be 8 or 16"),
        ({"wire_bits": 8}, r"the last stage has wire_bits = 8: expected none"),
        (
            {"layers": [3, 4], "bits": [8]},
            "stage 1 starts at layer 3: expected 2, where",
        ),
        ({"layers": [2, 3], "bits": [8]}, "the stages end at layer 3: expected 4, the"),
        ({"device": "node0/cpu:0"}, "device 'node0/cpu:0' is in two stages: expected"),
        (
            {"device": "node0/cpu:1000000"},
            "expected a number of at most 4095 behind th",
        ),
    ],
)
def test_a_wrong_stage_is_refused(second, complaint):
    with pytest.raises(StrategyError, match=complaint):
        read(stage=with_second_stage(**second))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stage": []}, "the stages end at layer 0: expected 4, the model's number of"),
        (
            {"precision": {"kv_bits": 4}},
            "precision.kv_bits: found 4, input should be 8 or 16",
        ),
        ({"precision": {"group_size": 48}}, "group_size: found 48, input should be 32"),
        (
            {"precision": {"head_bits": 4}},
            "head_bits: found 4, input should be 8, 16 or 32",
        ),
        (
            {"micro_batch": {"prefill": 2, "decode": 3}},
            "^strategy.toml: micro_batch: pre",
        ),
        ({"workload": {"batch": True}}, "workload.batch: found True, input should be"),
        (
            {"micro_batch": {"prefill": 10**9, "decode": 10**9}},
            "expected at most 1,048,",
        ),
        (
            {"workload": SIZES | {"new_tokens": 10**18}},
            "new_tokens is 1000000000000000",
        ),
        ({"workload": SIZES | {"batch": 1 << 20, "prompt_length": 1 << 20}}, "in all"),
        (
            {"workload": SIZES | {"lengths": [[16, 4, 10**9]]}},
            "lengths: 1000000000 prompts in all: expected at most 4,194,304",
        ),
        ({"model": MODEL | {"path": "a\0b"}}, "has a NUL character: expected a path"),
        (
            {"model": MODEL | {"num_layers": 10**12}},
            "num_layers: found 1000000000000, i",
        ),
    ],
)
def test_a_wrong_strategy_is_refused(changes, complaint):
    with pytest.raises(StrategyError, match=complaint):
        read(**changes)


VALUES = st.floats(min_value=1e-9, max_value=1e9)


@given(VALUES, st.floats(min_value=0, max_value=1))
def test_a_certificate_in_a_file_claims_no_more_than_was_proven(
    tmp_path_factory, objective, share
):
    bound = share * objective
    certificate = Certificate(
        gap=(objective - bound) / objective,
        objective=objective,
        bound=bound,
        covers="all",
        solver="none",
        seconds=1.0,
    )
    found = written(tmp_path_factory, certificate=certificate).certificate
    assert found is not None
    assert found.bound <= bound
    assert found.objective >= objective
    assert found.gap == (found.objective - found.bound) / found.objective
    # Of nine digits, both numbers move by up to 1e-8 of themselves.
    assert found.gap == pytest.approx(certificate.gap, abs=2e-8)


@given(VALUES)
def test_a_plan_keeps_the_budget_that_its_file_names(tmp_path_factory, omega):
    quality = Quality(omega=omega, budget=omega, method="none")
    found = written(tmp_path_factory, quality=quality).quality
    assert found is not None
    assert found.budget == found.omega
    assert omega <= found.omega <= omega * (1 + 1e-5)


def written(tmp_path_factory, **parts):
    """A strategy with other parts, as it is read from its file."""
    path = tmp_path_factory.mktemp("written") / "strategy.toml"
    write_strategy(path, replace(read(), **parts))
    return read_strategy(path)
