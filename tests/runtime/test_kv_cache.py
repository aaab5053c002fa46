"""A strategy with a cache of 8 bits runs with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.runtime import Pipeline, Request
from llmpq_jax.schema.precision import KvBits
from llmpq_jax.schema.strategy import Strategy
from tests.support.local_workers import local_workers
from tests.support.tiny_models import make_strategy, write_tiny_model

TOKENS = [[17, 250, 3, 99, 4, 181, 77, 30]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def at(folder: Path, kv_bits: KvBits) -> Strategy:
    strategy = make_strategy(folder, [((0, 1), [8, 16]), ((2,), [4, 8])])
    return replace(strategy, precision=replace(strategy.precision, kv_bits=kv_bits))


def test_8_bits_change_logits_a_little_and_equally_in_one_pass_and_step_by_step(folder):
    with Pipeline.load(at(folder, 16)) as pipeline:
        exact = pipeline.score(TOKENS)
    with Pipeline.load(at(folder, 8)) as pipeline:
        whole = pipeline.score(TOKENS)
        stepwise = pipeline.score(TOKENS, stepwise=True)
    moved = np.abs(whole - exact).max()
    assert 0 < moved < 0.05 * np.abs(exact).max()
    # Float sums differ between the two; now and then one tips a key to the next integer.
    assert np.abs(stepwise - whole).max() < 0.3 * moved


def test_8_bits_take_the_predicted_memory(folder):
    held = {}
    for kv_bits in (8, 16):
        with Pipeline.load(at(folder, kv_bits)) as pipeline:
            workers = local_workers(pipeline)
            for worker in workers:
                worker.allocate(num_groups=2, num_rows=3, num_slots=32)
                assert worker.cache_bytes == 2 * 3 * 32 * worker.facts.slot_bytes
            held[kv_bits] = sum(worker.cache_bytes for worker in workers)
    assert held[8] < 0.6 * held[16]


def test_8_bits_serve_requests(folder):
    request = Request(token_ids=tuple(TOKENS[0]), max_new_tokens=6)
    with Pipeline.load(at(folder, 8)) as pipeline:
        (completion,) = pipeline.serve([request])
        tokens = [*TOKENS[0], *completion.token_ids]
        logits = pipeline.score([tokens], stepwise=True)[0]
    start = len(TOKENS[0]) - 1
    for position, token in enumerate(completion.token_ids, start):
        best = logits[position].max()
        assert logits[position, token] >= best - 1e-3 * np.abs(logits[position]).max()


def test_8_bits_change_prompts_in_chunks_and_whole_prompts_equally(folder):
    tokens = [[(7 * index + 3) % 256 for index in range(48)]]
    whole = at(folder, 8)
    micro_batch = replace(whole.micro_batch, chunk_tokens=16)
    with Pipeline.load(at(folder, 16)) as pipeline:
        exact = pipeline.score(tokens)
    with Pipeline.load(whole) as pipeline:
        expected = pipeline.score(tokens)
    with Pipeline.load(replace(whole, micro_batch=micro_batch)) as pipeline:
        found = pipeline.score(tokens)
    moved = np.abs(expected - exact).max()
    assert np.abs(found - expected).max() < 0.3 * moved
