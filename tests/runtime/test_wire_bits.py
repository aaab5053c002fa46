"""A strategy with 8-bit hidden states between stages runs with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.runtime import Pipeline, Request
from llmpq_jax.schema.precision import Bits, WireBits
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.sensitivity.streamed_model import StreamedModel, round_wire
from tests.support.local_workers import local_workers
from tests.support.tiny_models import make_strategy, write_tiny_model

TOKENS = [[17, 250, 3, 99, 4, 181, 77, 30]]
BITS: list[Bits] = [8, 16, 4, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def stage_per_layer(folder: Path, wire_bits: WireBits, *, chunk=512) -> Strategy:
    stages: list[tuple[tuple[int, ...], list[Bits]]] = [
        ((layer,), [bits]) for layer, bits in enumerate(BITS)
    ]
    return make_strategy(
        folder, stages, wire_bits=wire_bits, prompt_length=60, chunk_tokens=chunk
    )


def test_a_pipeline_rounds_as_sensitivities_assume(folder):
    model = StreamedModel(folder)
    hidden = model.embed(np.asarray(TOKENS))
    for layer, bits in enumerate(BITS):
        hidden = model.layer(layer, model.layer_weights(layer, bits))(hidden)
        if layer + 1 < len(BITS):
            hidden = round_wire(hidden)
    expected_8 = np.asarray(model.head()(hidden))
    with Pipeline.load(stage_per_layer(folder, 16)) as pipeline:
        exact = pipeline.score(TOKENS)
    with Pipeline.load(stage_per_layer(folder, 8)) as pipeline:
        whole = pipeline.score(TOKENS)
        stepwise = pipeline.score(TOKENS, stepwise=True)
    moved = np.abs(expected_8 - exact).max()
    assert moved > 1e-3 * np.abs(exact).max()
    # Float sums differ between them; now and then one tips a value to the next integer.
    assert np.abs(whole - expected_8).max() < 0.3 * moved
    assert np.abs(stepwise - expected_8).max() < 0.3 * moved


def test_prompts_in_chunks_and_tensor_parallel_stages_are_rounded_equally(folder):
    tokens = [[(7 * index + 3) % 256 for index in range(48)]]
    with Pipeline.load(stage_per_layer(folder, 16)) as pipeline:
        exact = pipeline.score(tokens)
    with Pipeline.load(stage_per_layer(folder, 8)) as pipeline:
        expected = pipeline.score(tokens)
    moved = np.abs(expected - exact).max()
    with Pipeline.load(stage_per_layer(folder, 8, chunk=16)) as pipeline:
        chunked = pipeline.score(tokens)
    # Hidden states are rounded after the same layers.
    stages: list[tuple[tuple[int, ...], list[Bits]]] = [
        ((0, 1), BITS[:1]),
        ((2,), BITS[1:2]),
        ((3, 4), BITS[2:3]),
        ((5,), BITS[3:]),
    ]
    with Pipeline.load(
        make_strategy(folder, stages, wire_bits=8, prompt_length=60)
    ) as pipeline:
        spread = pipeline.score(tokens)
    assert np.abs(chunked - expected).max() < 0.3 * moved
    assert np.abs(spread - expected).max() < 0.3 * moved


def test_serving_requests_compiles_nothing_more(folder):
    request = Request(token_ids=tuple(TOKENS[0]), max_new_tokens=6)
    with Pipeline.load(stage_per_layer(folder, 8)) as pipeline:
        (completion,) = pipeline.serve([request])
        tokens = [*TOKENS[0], *completion.token_ids]
        programs = [worker.program for worker in local_workers(pipeline)]
        # Each stage prepared one program of each phase, and served with it.
        assert [len(program.executables) for program in programs] == [2] * 4
        logits = pipeline.score([tokens], stepwise=True)[0]
    start = len(TOKENS[0]) - 1
    for position, token in enumerate(completion.token_ids, start):
        best = logits[position].max()
        assert logits[position, token] >= best - 1e-3 * np.abs(logits[position]).max()
