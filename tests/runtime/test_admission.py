"""A request that a model has no positions for is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.admission import check_request
from llmpq_jax.runtime.request import Request
from tests.support.tiny_models import make_strategy, write_tiny_model


def _check(folder: Path, family: str, num_tokens: int, new_tokens: int) -> None:
    config = {"model_type": family, "max_position_embeddings": 40}
    (folder / "config.json").write_text(json.dumps(config))
    strategy = make_strategy(
        write_tiny_model(folder / "model"),
        [((0,), [16] * 4)],
        prompt_length=64,
        new_tokens=32,
    )
    request = Request(token_ids=(1,) * num_tokens, max_new_tokens=new_tokens)
    check_request(request, strategy, read_architecture(folder / "config.json"))


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_last_new_token_needs_no_position(tmp_path: Path, family: str) -> None:
    _check(tmp_path, family, 30, 11)


def test_learned_positions_end(tmp_path: Path) -> None:
    message = "30 tokens and 12 new .* at most 41 together, since the model has 40 pos"
    with pytest.raises(RequestError, match=message):
        _check(tmp_path, "opt", 30, 12)


def test_rotary_positions_do_not_end(tmp_path: Path) -> None:
    _check(tmp_path, "llama", 60, 30)
