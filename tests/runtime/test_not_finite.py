"""A request whose logits are not finite says where that began; others are served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.runtime.not_finite import not_finite_reason
from llmpq_jax.schema.precision import Bits
from llmpq_jax.stage.message import NotFinite
from tests.support.tiny_models import make_strategy, write_tiny_model

BAD_TOKEN = 7
Weights = dict[str, np.ndarray]


def spoil_embedding(weights: Weights) -> None:
    weights["model.embed_tokens.weight"][BAD_TOKEN] = np.nan


def spoil_layer(weights: Weights) -> None:
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = np.nan


def spoil_head(weights: Weights) -> None:
    weights["lm_head.weight"][5, 6] = np.nan


def written(folder: Path, spoil: Callable[[Weights], None]) -> Path:
    """Writes a model of two layers with a weight that is no number."""
    write_tiny_model(folder, num_hidden_layers=2)
    path = folder / "model.safetensors"
    weights = {name: array.copy() for name, array in load_file(path).items()}
    spoil(weights)
    save_file(weights, path)
    return folder


def requests_of(prompts: list[tuple[int, ...]]) -> list[Request]:
    return [
        Request(
            token_ids=token_ids,
            max_new_tokens=3 + number % 3,
            ignores_eos=True,
            sampling=Sampling(temperature=number % 2 * 0.9, seed=number),
        )
        for number, token_ids in enumerate(prompts)
    ]


GOOD = [tuple(range(20 + n, 22 + n)) for n in range(6)]
# Longer than what the next prompt overwrites in a cache.
BAD = [(BAD_TOKEN, *range(30, 60)), (9, BAD_TOKEN, *range(40, 60))]


Stages = list[tuple[tuple[int, ...], list[Bits]]]
ONE: Stages = [((0,), [16, 16])]
TWO: Stages = [((0,), [16]), ((1,), [16])]


@pytest.mark.parametrize(
    ("stages", "activations"),
    [
        pytest.param(ONE, "float32", marks=pytest.mark.full),
        pytest.param(TWO, "float32"),
        pytest.param(ONE, "float16"),
        pytest.param(TWO, "float16", marks=pytest.mark.full),
    ],
)
def test_one_request_fails_and_others_are_served(
    tmp_path: Path, stages: Stages, activations: str
) -> None:
    """Also where attention multiplies what is masked by 0, as it does in float16."""
    folder = written(tmp_path / "model", spoil_embedding)
    strategy = make_strategy(
        folder, stages, batch=2, prompt_length=32, prefill=1, decode=1, chunk_tokens=16
    )
    strategy = replace(
        strategy, precision=replace(strategy.precision, activations=activations)
    )
    mixed = requests_of([GOOD[0], BAD[0], *GOOD[1:4], BAD[1], *GOOD[4:]])
    good = [each for each in mixed if BAD_TOKEN not in each.token_ids]
    with Pipeline.load(strategy) as pipeline:
        completions = list(pipeline.serve(mixed))
        alone = list(pipeline.serve(good))
    served = [each for each in completions if each.error is None]
    # A vocabulary token may be generated that spoils the rest, in both runs.
    assert [each.token_ids for each in served] == [
        each.token_ids for each in alone if each.error is None
    ]
    assert len(served) >= len(good) - 2
    for request, completion in zip(mixed, completions, strict=True):
        if request in good:
            continue
        assert completion.finish_reason == "error"
        assert completion.token_ids == ()
        assert "the embedding on node0/cpu:0 is the first part" in str(completion.error)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (spoil_layer, "layer 1 on node0/cpu:1 is the first part"),
        (spoil_head, "the head on node0/cpu:1 is the first part"),
    ],
)
@pytest.mark.parametrize("wire_bits", [16, pytest.param(8, marks=pytest.mark.full)])
def test_the_first_part_that_is_not_finite_is_named(
    tmp_path: Path, spoil: Callable[[Weights], None], where: str, wire_bits
) -> None:
    folder = written(tmp_path / "model", spoil)
    strategy = make_strategy(folder, TWO, wire_bits=wire_bits)
    with Pipeline.load(strategy) as pipeline:
        completions = list(pipeline.serve(requests_of(GOOD[:3])))
    for completion in completions:
        assert where in str(completion.error)
        assert "are NaN or infinite after 0 new tokens" in str(completion.error)


def test_what_is_finite_the_second_time_is_said_to_be(tmp_path: Path) -> None:
    strategy = make_strategy(write_tiny_model(tmp_path), [((0,), [16] * 4)])
    reason = not_finite_reason(None, strategy, num_tokens=3)
    assert "after 3 new tokens: computed again, they are finite; expected" in reason
    reason = not_finite_reason(NotFinite(0, 4), strategy, num_tokens=0)
    assert "layer 3 on node0/cpu:0" in reason
