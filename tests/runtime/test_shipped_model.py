"""The shipped model through the pipeline: right tokens, and a text it has learned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.runtime import Pipeline, Request, Sampling
from tests.support.same_tokens import compare_all, logit_tolerance
from tests.support.tiny_models import make_strategy

_EXAMPLES = Path(__file__).parents[2] / "examples"
_MODEL = _EXAMPLES / "tiny-code-lm"


@pytest.fixture(scope="module")
def alone() -> Pipeline:
    strategy = make_strategy(
        _MODEL,
        [((0,), [16] * 12)],
        batch=16,
        prompt_length=64,
        new_tokens=32,
        prefill=4,
        decode=4,
    )
    return Pipeline.load(strategy)


def test_less_than_one_percent_of_tokens_are_excused(
    alone: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (_EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    requests = [
        Request(
            token_ids=alone.tokenizer.encode(json.loads(line)["prompt"]),
            max_new_tokens=32,
            sampling=Sampling(temperature=0.7 * (number % 2), seed=number),
            ignores_eos=True,
        )
        for number, line in enumerate(lines)
    ]
    cut = make_strategy(
        _MODEL,
        [((0,), [16] * 3), ((1, 2), [16] * 4), ((3,), [16] * 5)],
        batch=16,
        prompt_length=64,
        new_tokens=32,
        prefill=2,
        decode=8,
    )
    with Pipeline.load(cut) as pipeline:
        completions = list(pipeline.serve(requests))
    logits = []
    for request, completion in zip(requests, completions, strict=True):
        row = np.zeros((1, 96), np.int32)
        tokens = request.token_ids + completion.token_ids
        row[0, : len(tokens)] = tokens
        logits.append(alone.score(row)[0, : len(tokens)])
    tolerance = logit_tolerance(alone.architecture, np.concatenate(logits))
    comparison = compare_all(requests, completions, logits, tolerance)
    with capsys.disabled():
        print(  # noqa: T201 - the share is part of what the law promises to say
            f"\n{comparison.num_excused} of {comparison.num_positions} tokens excused "
            f"(logits within {tolerance:.1e})"
        )
    assert comparison.num_positions == 32 * len(requests)
    assert comparison.num_wrong == 0
    assert comparison.num_excused < 0.01 * comparison.num_positions


def test_the_shipped_weights_are_the_learned_ones(alone: Pipeline) -> None:
    """The first 16 windows of the evaluation text, each scored from its own start."""
    text = (_MODEL / "evaluation.txt").read_text(encoding="utf-8")
    tokens = alone.tokenizer.encode(text[:40_000], adds_special_tokens=False)
    windows = np.asarray(tokens[: 16 * 256], np.int32).reshape(16, 256)
    logits = alone.score(windows)[:, :-1].astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=-1))
    chosen = np.take_along_axis(shifted, windows[:, 1:, None], axis=-1)[..., 0]
    nats = float((log_total - chosen).sum())
    scored = "".join(alone.tokenizer.decode(row[1:].tolist()) for row in windows)
    assert nats / math.log(2) / len(scored.encode()) <= 1.7
