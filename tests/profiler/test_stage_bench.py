import jax
import numpy as np
import pytest

from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench, StageContents
from llmpq_jax.schema.measurements import Phase
from tests.profiler.fakes import architecture

SHAPE = Shape(rows=2, num_tokens=4, num_slots=8)


def bench(**contents):
    model = architecture(family="opt", is_gated=False, norm="layer")
    return StageBench(
        model,
        jax.devices()[1:2],
        StageContents(**contents),
        activations="bfloat16",
        group_size=32,
    )


def test_calls_run_what_was_compiled_ahead_and_fill_the_device_s_cache():
    stage = bench(num_layers=1, bits=4)
    stage.compile([("prefill", SHAPE), ("decode", SHAPE)])
    compiled = set(stage.worker.program.executables)
    assert len(compiled) == 2
    filled: dict[Phase, list[bool]] = {
        "prefill": [True] * 4 + [False] * 4,
        "decode": [False] * 7 + [True],
    }
    for phase, slots in filled.items():
        assert stage.workspace_bytes(phase, SHAPE) > 0
        call = stage.call(phase, SHAPE)
        for _ in range(3):
            call()
        ((cache,),) = stage.worker.caches.values()
        assert cache.key.devices() == {jax.devices()[1]}
        sums = np.abs(np.asarray(cache.key, np.float32)).sum(axis=(0, 2, 3))
        assert (sums > 0).tolist() == slots
    assert set(stage.worker.program.executables) == compiled
    stage.free()
    assert stage.worker.cache_bytes == 0


def test_small_layers_rotate_through_equal_copies_of_their_weights():
    """As many as the model has of such a stage: here two of two layers each."""
    stage = bench(num_layers=2)
    program = stage.worker.program
    call, held, results = stage.call("prefill", SHAPE), [], []
    for _ in range(4):
        call()
        held.append({leaf.unsafe_buffer_pointer() for leaf in program.leaves})
        ((cache, _),) = stage.worker.caches.values()
        results.append(np.asarray(cache.key, np.float32))
    assert not held[0] & held[1]
    assert held[:2] == held[2:]
    assert all(np.array_equal(one, results[0]) for one in results)


@pytest.mark.parametrize(
    "contents",
    [{}, {"has_embedding": True}, {"has_head": True, "bits": 8}],
    ids=["empty", "embedding", "head"],
)
def test_a_stage_may_hold_the_embedding_the_head_or_nothing(contents):
    rows = Shape(rows=3, num_tokens=1, num_slots=1)
    stage = bench(**contents)
    for _ in range(2):
        stage.call("prefill", rows)()
    assert stage.workspace_bytes("prefill", rows) >= 0


def test_layers_over_two_devices_have_half_of_the_cache_on_each():
    """A mesh is timed as the engine drives it."""
    model = architecture(num_kv_heads=2)
    held = []
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        stage = StageBench(
            model,
            devices,
            StageContents(num_layers=2, bits=8),
            activations="float32",
            group_size=32,
        )
        stage.compile([("prefill", SHAPE), ("decode", SHAPE)])
        for phase in ("prefill", "decode"):
            stage.call(phase, SHAPE)()
            assert stage.workspace_bytes(phase, SHAPE) > 0
        ((first, _),) = stage.worker.caches.values()
        assert first.key.devices() == set(devices)
        held.append(stage.worker.cache_bytes)
    assert held[0] == 2 * held[1]
