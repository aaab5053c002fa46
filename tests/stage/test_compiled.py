"""The memory of a compiled stage, and what its functions agree on."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, SCORE_BLOCK_BYTES
from llmpq_jax.schema.precision import Bits
from llmpq_jax.stage.sampling import greedy_rows, sampling_rows
from llmpq_jax.stage.worker import StageShapes, StageWorker
from tests.support.local_workers import local_workers
from tests.support.tiny_models import make_strategy, write_tiny_model

ROWS = 2
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 16}


@pytest.fixture(scope="module", params=[4, pytest.param(8, marks=pytest.mark.full), 16])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A stage that is a whole model of one precision, most of whose bytes are layers."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), **SIZES)
    bits: list[Bits] = [request.param] * 4
    strategy = make_strategy(folder, [((0,), bits)], prefill=ROWS, decode=ROWS)
    with Pipeline.load(strategy) as pipeline:
        yield local_workers(pipeline)[0]


def _allocated(worker: StageWorker) -> None:
    worker.allocate(num_groups=1, num_rows=ROWS, num_slots=32)


def test_no_function_keeps_a_converted_copy_of_the_stage(worker: StageWorker) -> None:
    worker.prepare(
        StageShapes(prefill_rows=ROWS, num_tokens=16, decode_rows=ROWS, num_slots=32)
    )
    _allocated(worker)
    inputs = np.zeros(ROWS, np.int32)
    worker.program.decode(
        inputs,
        worker.caches[0],
        inputs,
        greedy_rows(ROWS),
    )
    executables = worker.program.executables
    assert {key[0] for key in executables} == {"prefill", "decode", "steps"}
    hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    layer_values = 2 * hidden * hidden + 3 * hidden * inner
    for key, executable in executables.items():
        memory = executable.memory_analysis()
        assert memory is not None
        temporary = memory.temp_size_in_bytes
        # One layer in float32 at most; a copy of the stage would be four.
        assert temporary < 4 * layer_values * 1.5, key


def test_a_prefill_never_holds_all_attention_scores(
    worker: StageWorker,
) -> None:
    scores = 4 * ROWS * SIZES["num_attention_heads"] * 1024 * 1024
    assert scores > 4 * SCORE_BLOCK_BYTES
    for num_chunks in (1, 4):
        worker.program.executables.clear()
        needs = StageShapes(
            prefill_rows=ROWS,
            num_tokens=1024,
            decode_rows=ROWS,
            num_slots=1024,
            num_chunks=num_chunks,
            has_decode=False,
        )
        worker.prepare(needs)
        (executable,) = worker.program.executables.values()
        memory = executable.memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 4 * SCORE_BLOCK_BYTES
    worker.program.executables.clear()


def test_several_steps_in_one_call_are_single_steps(worker: StageWorker) -> None:
    program = worker.program
    inputs = np.array([3, 70], np.int32)
    position = np.zeros(ROWS, np.int32)
    sampling = sampling_rows([0.0, 0.9], [0, 0], [1.0, 0.9], [0, 7])
    _allocated(worker)
    tokens, last, cache = program.decode_steps(
        inputs, worker.caches[0], position, sampling, num_steps=5
    )
    assert tokens.shape == (MAX_STEPS_PER_CALL, ROWS)
    assert (np.asarray(last) == np.asarray(tokens)[4]).all()
    assert (np.asarray(tokens)[5:] == 0).all()
    _allocated(worker)
    step_cache, fed = worker.caches[0], inputs
    for step in range(5):
        fed, step_cache = program.decode(fed, step_cache, position + step, sampling)
        assert (np.asarray(fed) == np.asarray(tokens)[step]).all()
    for block, step_block in zip(
        jax.tree.leaves(cache), jax.tree.leaves(step_cache), strict=True
    ):
        assert np.asarray(block) == pytest.approx(np.asarray(step_block), abs=1e-4)
