"""Seconds come from measurements, at the sizes that the run will have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.latency import fit_latency
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.workload import Workload
from tests.costmodel.records import (
    layer_time,
    measured_kind,
    measurements,
    vocabulary_layer_time,
)

DECODE = [layer_time("decode", 2, length, 1.0 + 0.01 * length) for length in (8, 64)]
PREFILL = [layer_time("prefill", 2, length, 0.1 * length) for length in (16, 32, 64)]
MODEL = fit_latency(
    measurements(
        *DECODE,
        *PREFILL,
        vocabulary_layer_time("head", 1, 1.0),
        vocabulary_layer_time("head", 3, 2.0, bits=8),
    )
)


def workload(prompt_length=20, new_tokens=5):
    return Workload(batch=4, prompt_length=prompt_length, new_tokens=new_tokens)


@pytest.mark.parametrize(("prompt_length", "bucket"), [(1, 16), (16, 16), (17, 32)])
def test_prefill_computes_the_padding_too(prompt_length, bucket):
    seconds = MODEL.prefill_s("cpu", 8, rows=2, workload=workload(prompt_length))
    assert seconds == pytest.approx(0.1 * bucket)


@pytest.mark.parametrize(("new_tokens", "bucket"), [(2, 32), (12, 32), (13, 48)])
@pytest.mark.parametrize(
    ("kernel_path", "activations"),
    [("xla", "float32"), ("pallas-sm80", "bfloat16"), ("native-avx2", "float16")],
)
def test_a_decode_step_reads_the_whole_cache_where_slots_are_only_masked(
    kernel_path, activations, new_tokens, bucket
):
    kind = measured_kind(kernel_path)
    model = fit_latency(measurements(kind, *DECODE, activations=activations))
    asked = workload(20, new_tokens)
    seconds = model.decode_s("cpu", 8, rows=2, workload=asked)
    assert seconds == pytest.approx(1.0 + 0.01 * bucket)


@given(st.integers(1, 80), st.integers(2, 80), st.floats(0.0, 1.0))
def test_native_steps_are_summed_over_the_growing_context(prompt, new_tokens, square):
    """Also where the mean of the seconds is not the seconds of the mean."""

    def law(context):
        return 1.0 + 0.01 * context + square * (context >= 32) * (context - 32)

    rows = [layer_time("decode", 2, size, law(size)) for size in (8, 32, 200)]
    model = fit_latency(measurements(measured_kind("native-avx512"), *rows))
    table = model.layers["cpu", "decode", 8, 1]
    steps = [float(table(2, prompt + step)) for step in range(1, new_tokens)]
    seconds = model.decode_s("cpu", 8, rows=2, workload=workload(prompt, new_tokens))
    assert seconds == pytest.approx(sum(steps) / len(steps))


def test_prompts_that_end_early_have_shorter_contexts():
    model = fit_latency(measurements(measured_kind("native-avx512"), *DECODE))
    whole = Workload(batch=2, prompt_length=20, new_tokens=40)
    half = Workload(
        batch=2, prompt_length=20, new_tokens=40, output_length_fraction=0.5
    )
    assert model.decode_s("cpu", 8, rows=2, workload=half) < model.decode_s(
        "cpu", 8, rows=2, workload=whole
    )


def test_what_was_held_out_is_not_fitted():
    held_out = layer_time("prefill", 2, 48, 1000.0, held_out=True)
    model = fit_latency(measurements(*PREFILL, held_out))
    table = model.layers["cpu", "prefill", 8, 1]
    assert float(table(2, 48)) == pytest.approx(4.8)


def test_one_new_token_takes_no_decode_step():
    assert MODEL.decode_s("cpu", 8, rows=2, workload=workload(new_tokens=1)) == 0.0


def test_heads_are_distinguished_by_their_bits():
    assert MODEL.vocabulary_layer_s("cpu", "decode", "head", 16, rows=1) == 1.0
    assert MODEL.vocabulary_layer_s("cpu", "decode", "head", 8, rows=3) == 2.0


def test_a_layer_measured_in_one_phase_only_is_not_supported():
    model = fit_latency(measurements(layer_time("prefill", 1, 16, 1.0, bits=4)))
    assert not model.supports_layer("cpu", 4)
    assert MODEL.supports_layer("cpu", 8)
    assert not MODEL.supports_layer("cpu", 8, tensor=2)
    assert not MODEL.supports_layer("gpu", 8)


@pytest.mark.parametrize("question", ["prefill_s", "decode_s"])
def test_what_was_not_measured_is_refused_and_never_free(question):
    with pytest.raises(
        MeasurementError, match="of a layer at 4 bits, tensor width 1, on"
    ):
        getattr(MODEL, question)("cpu", 4, rows=1, workload=workload())


def test_an_embedding_that_was_not_measured_is_refused():
    assert not MODEL.supports_vocabulary_layer("cpu", "embedding")
    with pytest.raises(MeasurementError, match="no embedding at 16 bits on 'cpu'"):
        MODEL.vocabulary_layer_s("cpu", "decode", "embedding", rows=1)
