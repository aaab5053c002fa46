"""What a stage says it held at most is what was there, counted otherwise."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.stage.abstract import describe_stage, program_memories
from llmpq_jax.stage.memory_peak import HighWaterMark, stage_peak
from llmpq_jax.stage.sharding import Placement
from tests.tiny_models import make_strategy, write_tiny_model

PARTS = {"weights": 5, "kv_cache": 3, "programs": 2, "waiting": 1}


def device(**stats):
    return SimpleNamespace(memory_stats=lambda: stats or None)


def test_a_device_that_counts_is_believed():
    peak = stage_peak([device(peak_bytes_in_use=40), device()], **PARTS)
    assert (peak.peak_bytes, peak.source) == (40, "device")
    fullest = [device(peak_bytes_in_use=size) for size in (40, 60)]
    assert stage_peak(fullest, **PARTS).peak_bytes == 60


def test_where_no_device_counts_the_parts_are_added_up():
    peak = stage_peak([device(), device(bytes_in_use=9)], **PARTS)
    assert (peak.peak_bytes, peak.source) == (11, "compiler")


def test_a_tide_remembers_its_highest():
    tide = HighWaterMark()
    for change in (3, 4, -5, 2):
        tide.add(change)
    assert tide.highest == 7
    tide.reset()
    assert tide.highest == 0


@pytest.mark.parametrize(
    ("kv_bits", "widths"),
    [
        (16, ((0, 1), (2, 3))),
        (8, ((0,), (1,))),
        pytest.param(16, ((0,), (1,)), marks=pytest.mark.full),
        pytest.param(8, ((0, 1), (2, 3)), marks=pytest.mark.full),
    ],
)
def test_a_peak_is_what_the_compiler_says_of_the_programs_that_ran(
    tmp_path, widths, kv_bits
):
    """A stage described without weights needs as much, but for what is in its inbox."""
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
            layers=stage.layers,
            bits=stage.bits,
            precision=strategy.precision,
            placement=Placement(tuple(devices[each] for each in widths[number])),
        )
        accounts = program_memories(
            program,
            workload=strategy.workload,
            micro_batch=strategy.micro_batch,
            precision=strategy.precision,
        )
        peak = times.peak
        assert peak is not None
        assert peak.source == "compiler"
        assert peak.weights + peak.kv_cache == times.memory_bytes
        compiled = max(account.peak - account.arriving for account in accounts)
        assert peak.peak_bytes - peak.waiting == compiled
        # Four micro-batches of prompts arrive before the first is done, at most.
        width = 4 if number == 0 else 4 * 64
        assert 0 < peak.waiting <= 4 * 2 * 16 * width
