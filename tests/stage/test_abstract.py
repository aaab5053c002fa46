"""A stage that is only described has the arrays and memory of the loaded stage."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.strategy import PrecisionChoice, Stage, Strategy
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.stage.abstract import describe_stage, program_memories
from llmpq_jax.stage.compiled import StageProgram
from llmpq_jax.stage.sharding import StageSharding
from tests.support.local_workers import local_workers
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that do not fill their last panel, and a head that does not divide."""
    sizes = {"intermediate_size": 200, "vocab_size": 259}
    return write_tiny_model(tmp_path_factory.mktemp("model"), **sizes)


def described(strategy: Strategy, pipeline: Pipeline, number: int) -> StageProgram:
    return describe_stage(
        pipeline.architecture,
        strategy.stages[number],
        strategy.precision,
        StageSharding(local_workers(pipeline)[number].sharding.devices),
    )


@pytest.mark.parametrize("widths", [((0,), (1,)), ((0, 1), (2, 3))])
def test_descriptions_are_those_of_the_loaded_arrays(folder, widths):
    strategy = make_strategy(
        folder,
        [(widths[0], [16, 8]), (widths[1], [4, 8])],
        head_bits=8,
        prefill=4,
        decode=2,
    )
    with Pipeline.load(strategy) as pipeline:
        for number, worker in enumerate(local_workers(pipeline)):
            program = described(strategy, pipeline, number)
            for leaf, real in zip(program.leaves, worker.program.leaves, strict=True):
                assert (leaf.shape, leaf.dtype) == (real.shape, real.dtype)
                assert leaf.sharding.is_equivalent_to(real.sharding, real.ndim)


@pytest.mark.parametrize(
    ("prompt_length", "chunk_tokens", "cuts"),
    [
        (64, 16, [2, 2]),
        pytest.param(16, 512, [4], marks=pytest.mark.full),
        pytest.param(16, 512, [1, 3], marks=pytest.mark.full),
    ],
)
def test_program_memories_are_those_of_the_programs_that_run(
    folder, prompt_length, chunk_tokens, cuts
):
    strategy = make_strategy(
        folder,
        [((number,), [8] * count) for number, count in enumerate(cuts)],
        batch=8,
        prompt_length=prompt_length,
        chunk_tokens=chunk_tokens,
        prefill=4,
        decode=2,
    )
    with Pipeline.load(strategy) as pipeline:
        requests = [_request(strategy)] * strategy.workload.batch
        pipeline.prepare(requests)
        for number, worker in enumerate(local_workers(pipeline)):
            memories = {
                memory.function: memory
                for memory in program_memories(
                    described(strategy, pipeline, number),
                    workload=strategy.workload,
                    micro_batch=strategy.micro_batch,
                )
            }
            real = worker.program.executables
            assert {key[0] for key in real} == set(memories)
            for (function, *_), executable in real.items():
                compiled = executable.memory_analysis()
                assert compiled is not None
                found = memories[function]
                assert compiled.temp_size_in_bytes == found.temporary
                assert compiled.argument_size_in_bytes == found.arguments
                assert compiled.alias_size_in_bytes == found.aliased
            # Four groups of two rows; prefill fills two of them at a time. Stages after
            # the first receive the next hidden states meanwhile.
            token_bytes = 4 * pipeline.architecture.hidden_size if number else 0
            num_slots = {16: 32, 64: 96}[prompt_length]
            group = 2 * num_slots * worker.facts.slot_bytes
            waiting = {name: memory.waiting for name, memory in memories.items()}
            first = "prefill" if chunk_tokens == 512 else "extend"
            assert waiting.pop(first) == 2 * group
            assert list(waiting.values()) == [3 * group]
            received = {name: memory.received for name, memory in memories.items()}
            assert received.pop(first) == 4 * 16 * token_bytes
            assert list(received.values()) == [2 * token_bytes]


def test_describing_a_stage_allocates_no_array(folder):
    strategy = make_strategy(folder, [((0,), [4, 8, 16, 8])])
    with Pipeline.load(strategy) as pipeline:
        before = len(jax.live_arrays())
        described(strategy, pipeline, 0)
        assert len(jax.live_arrays()) == before


def _request(strategy):
    return Request(
        token_ids=(1,) * strategy.workload.prompt_length,
        max_new_tokens=strategy.workload.new_tokens,
    )


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [
        (8, 4),
        pytest.param(4, 4, marks=pytest.mark.full),
        pytest.param(4, 8, marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("kv_bits", [16, 8])
@pytest.mark.parametrize("chunk_tokens", [512, 64])
def test_a_prefill_keeps_keys_of_earlier_layers_in_the_cache_alone(
    tmp_path, prefill, decode, kv_bits, chunk_tokens
):
    """Four layers take the memory of two, and none the float keys of a third."""
    architecture = read_architecture(write_tiny_model(tmp_path, num_hidden_layers=6))
    temporary = []
    for num_layers in (2, 4):
        precision = PrecisionChoice(activations="float32", kv_bits=kv_bits)
        program = describe_stage(
            architecture,
            Stage(
                device="node0/cpu:0",
                layers=(1, 1 + num_layers),
                bits=(16,) * num_layers,
            ),
            precision,
            StageSharding(tuple(jax.devices()[:1])),
        )
        memories = program_memories(
            program,
            workload=Workload(batch=8, prompt_length=128, new_tokens=1),
            micro_batch=MicroBatch(
                prefill=prefill, decode=decode, chunk_tokens=chunk_tokens
            ),
        )
        temporary.append(next(memories).temporary)
    tokens = prefill * min(128, chunk_tokens)
    keys = tokens * 4 * 16 * 4
    assert temporary[1] - temporary[0] < keys


def test_on_a_mesh_hidden_states_of_a_cache_s_size_do_not_reuse_its_buffer(tmp_path):
    """Chunks of 32 tokens, 64 wide; on each device caches of 64 slots, 32 wide."""
    program = describe_stage(
        read_architecture(write_tiny_model(tmp_path)),
        Stage(device="node0/cpu:0", layers=(1, 3), bits=(16, 16)),
        PrecisionChoice(activations="float32"),
        StageSharding(tuple(jax.devices()[:2])),
    )
    memory = next(
        program_memories(
            program,
            workload=Workload(batch=4, prompt_length=60, new_tokens=1),
            micro_batch=MicroBatch(prefill=4, decode=4, chunk_tokens=32),
        )
    )
    assert memory.function == "extend"
    (executable,) = program.executables.values()
    text = executable.as_text()
    assert text is not None
    header = text.partition("\n")[0]
    replaced = re.search(r"input_output_alias={ (.*?) }, ", header)
    assert replaced is not None
    # Output 0 is the hidden states, the others are the keys and values of both layers.
    outputs = re.findall(r"{(\d+)}: \(", replaced[1])
    assert outputs == ["1", "2", "3", "4"]
