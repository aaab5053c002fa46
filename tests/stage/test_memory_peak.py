"""The peak memory of a stage is what the compiler and the devices count."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.stage.abstract import describe_stage, program_memories
from llmpq_jax.stage.memory_peak import HighWaterMark, StagePeak
from llmpq_jax.stage.sharding import StageSharding
from tests.support.tiny_models import make_strategy, write_tiny_model

PARTS = {"weights": 5, "kv_cache": 3, "programs": 2, "waiting": 1}


def device(**stats):
    return SimpleNamespace(memory_stats=lambda: stats or None)


def test_the_peak_of_devices_that_count_is_theirs():
    peak = StagePeak.of([device(peak_bytes_in_use=40), device()], **PARTS)
    assert (peak.peak_bytes, peak.source) == (40, "device")
    fullest = [device(peak_bytes_in_use=size) for size in (40, 60)]
    assert StagePeak.of(fullest, **PARTS).peak_bytes == 60


def test_without_a_count_the_peak_is_the_sum_of_the_parts():
    peak = StagePeak.of([device(), device(bytes_in_use=9)], **PARTS)
    assert (peak.peak_bytes, peak.source) == (11, "compiler")


def test_a_high_water_mark_is_the_maximum_since_the_reset():
    mark = HighWaterMark()
    for change in (3, 4, -5, 2):
        mark.add(change)
    assert mark.highest == 7
    mark.reset()
    assert mark.highest == 0


@pytest.mark.parametrize(
    ("kv_bits", "widths"),
    [
        (16, ((0, 1), (2, 3))),
        (8, ((0,), (1,))),
        pytest.param(16, ((0,), (1,)), marks=pytest.mark.full),
        pytest.param(8, ((0, 1), (2, 3)), marks=pytest.mark.full),
    ],
)
def test_a_peak_is_that_of_the_programs_that_ran(tmp_path, widths, kv_bits):
    """A described stage has the same peak, except for its inbox."""
    folder = write_tiny_model(tmp_path)
    strategy = make_strategy(
        folder,
        [(widths[0], [16, 8]), (widths[1], [4, 8])],
        batch=8,
        prefill=2,
        decode=4,
        kv_bits=kv_bits,
    )
    request = Request(
        token_ids=(1,) * strategy.workload.prompt_length,
        max_new_tokens=strategy.workload.new_tokens,
        ignores_eos=True,
    )
    with Pipeline.load(strategy) as pipeline:
        list(pipeline.serve([request] * strategy.workload.batch))
        (batch,) = pipeline.batches
        architecture = pipeline.architecture
    devices = jax.devices()
    for number, (stage, times) in enumerate(
        zip(strategy.stages, batch.stages, strict=True)
    ):
        program = describe_stage(
            architecture,
            stage,
            strategy.precision,
            StageSharding(tuple(devices[each] for each in widths[number])),
        )
        memories = program_memories(
            program,
            workload=strategy.workload,
            micro_batch=strategy.micro_batch,
        )
        peak = times.peak
        assert peak is not None
        assert peak.source == "compiler"
        assert peak.weights + peak.kv_cache == times.memory_bytes
        compiled = max(memory.peak - memory.received for memory in memories)
        assert peak.peak_bytes - peak.waiting == compiled
        # At most four micro-batches of prompts wait in an inbox.
        width = 4 if number == 0 else 4 * 64
        assert 0 < peak.waiting <= 4 * 2 * 16 * width
