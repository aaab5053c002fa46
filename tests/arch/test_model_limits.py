"""Contexts past a model's positions are refused where there are none, else warned about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.model_limits import check_positions
from llmpq_jax.schema.workload import Workload


def _check(
    folder: Path, family: str, prompt_length: int, new_tokens: int
) -> tuple[str, ...]:
    config = {"model_type": family, "max_position_embeddings": 40}
    (folder / "config.json").write_text(json.dumps(config))
    workload = Workload(batch=1, prompt_length=prompt_length, new_tokens=new_tokens)
    return check_positions(read_architecture(folder), workload)


@pytest.mark.parametrize("family", ["opt", "llama", "bloom"])
def test_a_context_within_the_positions_is_not_remarked_on(
    tmp_path: Path, family: str
) -> None:
    # The last new token is not read.
    assert _check(tmp_path, family, 30, 11) == ()


def test_learned_positions_end(tmp_path: Path) -> None:
    message = "need 41 positions, the model has 40: expected at most 41 tokens together"
    with pytest.raises(ValueError, match=message):
        _check(tmp_path, "opt", 30, 12)


def test_rotary_positions_are_warned_about(tmp_path: Path) -> None:
    (note,) = _check(tmp_path, "llama", 30, 12)
    assert "need 41 positions, the model was trained for 40" in note


def test_positions_without_an_end_are_not_remarked_on(tmp_path: Path) -> None:
    assert _check(tmp_path, "bloom", 3000, 1200) == ()
