"""What a strategy's command says is read as `solve` reads it, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.cli.recorded import recorded_options
from llmpq_jax.schema.strategy_file import read_strategy

STRATEGY = Path(__file__).parents[2] / "strategies" / "tiny-two-cpu" / "strategy.toml"


def recorded(command):
    strategy = read_strategy(STRATEGY)
    assert strategy.provenance is not None
    provenance = replace(strategy.provenance, command=command)
    return recorded_options(replace(strategy, provenance=provenance))


def test_a_committed_strategy_records_its_sources():
    found = recorded_options(read_strategy(STRATEGY))
    assert found["cluster"] == Path("strategies/tiny-two-cpu/cluster.toml")
    assert found["batch"] == 16
    assert "theta" not in found


def test_choices_that_were_typed_come_back():
    found = recorded(
        "llmpq-jax --debug solve --roofline --cluster 'a b.toml' --min-bits 8 "
        "--pin-layers 0:2=n/cpu:0 --pin-layers 2:3=n/cpu:1 --theta 0.5 --out plan.toml"
    )
    assert found["roofline"] is True
    assert found["cluster"] == Path("a b.toml")
    assert found["min_bits"] == "8"
    assert found["pin_layers"] == ("0:2=n/cpu:0", "2:3=n/cpu:1")
    assert found["theta"] == 0.5
    assert "kv_bits" not in found


@pytest.mark.parametrize(
    "command", ["", "by hand", "llmpq-jax quickstart", "llmpq-jax solve 'unclosed"]
)
def test_other_commands_record_nothing(command):
    assert recorded(command) == {}


def test_a_strategy_without_provenance_records_nothing():
    assert recorded_options(replace(read_strategy(STRATEGY), provenance=None)) == {}
