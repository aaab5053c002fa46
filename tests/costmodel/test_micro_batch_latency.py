"""Predicted seconds of micro-batches, summed as the planner sums them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.costmodel.latency import fit_latency
from llmpq_jax.costmodel.micro_batch_latency import MicroBatchShape, micro_batch_s
from llmpq_jax.schema.measurements import DispatchTime, Observed, Phase
from tests.costmodel.records import (
    layer_time,
    measured_kind,
    measurements,
    vocabulary_layer_time,
)

ROWS = [
    layer_time(phase, batch, length, 1e-3 + 1e-5 * batch * length, bits=bits)
    for phase in ("prefill", "decode")
    for batch in (1, 4)
    for length in (16, 64)
    for bits in (8, 16)
]
VOCABULARY_LAYERS = [
    vocabulary_layer_time(part, rows, 1e-6 * rows)
    for part in ("embedding", "head")
    for rows in (1, 64)
]
DISPATCH = DispatchTime(kind="cpu", seconds=5e-4, spread=0.0)


def table(kernel_path="native-avx512", *observed):
    found = measurements(measured_kind(kernel_path), *ROWS, *VOCABULARY_LAYERS)
    return replace(found, dispatch=(DISPATCH,), observed=observed)


def observed(phase: Phase, predicted_s, measured_s, record="r"):
    return Observed(
        kind="cpu",
        phase=phase,
        predicted_s=predicted_s,
        measured_s=measured_s,
        num_passes=8,
        run="run.jsonl",
        record=record,
        strategy="s",
        date="2026-01-31",
    )


def predicted(found, phase: Phase, *, head_bits=None, has_embedding=False, tokens=16.0):
    size = MicroBatchShape(phase=phase, rows=4, tokens=tokens, slots=64)
    return micro_batch_s(
        fit_latency(found),
        "cpu",
        (8, 16, 8),
        size,
        has_embedding=has_embedding,
        head_bits=head_bits,
    )


def test_a_micro_batch_takes_its_dispatch_its_layers_embedding_and_head():
    layers = 3 * (1e-3 + 1e-5 * 4 * 16)
    assert predicted(table(), "prefill") == pytest.approx(5e-4 + layers)
    both = predicted(table(), "prefill", has_embedding=True, head_bits=16)
    assert both == pytest.approx(5e-4 + layers + 64e-6 + 4e-6)
    step = predicted(table(), "decode", has_embedding=True)
    assert step == pytest.approx(5e-4 + layers + 4e-6)


def test_steps_in_one_call_share_it():
    steps = MicroBatchShape(phase="decode", rows=4, tokens=16.0, slots=64, num_steps=8)
    latency = fit_latency(table())
    parts = {"has_embedding": True, "head_bits": 16}
    one = micro_batch_s(latency, "cpu", (8,), replace(steps, num_steps=1), **parts)
    each = micro_batch_s(latency, "cpu", (8,), steps, **parts)
    assert one - each == pytest.approx(5e-4 * 7 / 8)


def test_a_step_reads_the_whole_cache_or_what_is_in_it():
    assert predicted(table("xla"), "decode") == predicted(
        table(), "decode", tokens=64.0
    )
    assert predicted(table(), "decode") < predicted(table("xla"), "decode")


def test_all_runs_together_correct_a_phase():
    rows = (observed("decode", 1.0, 3.0), observed("decode", 3.0, 3.0, "other"))
    plain, corrected = table(), table("native-avx512", *rows)
    for parts in ({}, {"has_embedding": True, "head_bits": 16}):
        assert predicted(corrected, "decode", **parts) == pytest.approx(
            1.5 * predicted(plain, "decode", **parts)
        )
        assert predicted(corrected, "prefill", **parts) == predicted(
            plain, "prefill", **parts
        )
