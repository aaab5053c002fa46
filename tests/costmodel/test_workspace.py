"""Workspace is that of the larger program, and never below what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.costmodel.prefill_memory import PrefillShape, prefill_working_bytes
from llmpq_jax.costmodel.workspace import fit_workspace
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.workload import MicroBatch, Workload
from tests.costmodel.records import (
    architecture,
    layer_time,
    measured_kind,
    measurements,
    vocabulary_layer_time,
)

ARCHITECTURE = architecture()


def working_bytes(rows, tokens, **changes):
    return prefill_working_bytes(
        ARCHITECTURE,
        PrefillShape(rows=rows, tokens=tokens, slots=tokens, **changes),
        activations="float32",
        kv_bits=16,
    )


MODEL = fit_workspace(
    measurements(
        *[
            layer_time(
                "prefill",
                rows,
                length,
                1.0,
                workspace=2 * working_bytes(rows, length) + 5000,
            )
            for rows in (1, 4)
            for length in (16, 64)
        ],
        *[
            layer_time("decode", rows, length, 1.0, workspace=90_000 * rows)
            for rows in (1, 4)
            for length in (16, 64)
        ],
        *[
            vocabulary_layer_time("embedding", rows, 1.0, workspace=10 * rows)
            for rows in (1, 64)
        ],
        *[
            vocabulary_layer_time("head", rows, 1.0, workspace=500 * rows)
            for rows in (1, 4)
        ],
    ),
    ARCHITECTURE,
)
WORKLOAD = Workload(batch=8, prompt_length=20, new_tokens=5)


def micro_batch(prefill, decode):
    return MicroBatch(prefill=prefill, decode=decode)


def prefill_bytes(rows, groups=1):
    return 2 * working_bytes(rows, 32, groups=groups) + 5000


@pytest.mark.parametrize(
    ("prefill", "decode", "expected"),
    [
        (4, 1, prefill_bytes(4, groups=4)),
        (1, 4, 90_000 * 4),
        (2, 1, prefill_bytes(2, groups=2)),
        (1, 2, prefill_bytes(1)),
    ],
)
def test_the_larger_program_counts(prefill, decode, expected):
    size = MODEL.layer_bytes(
        "cpu", 8, workload=WORKLOAD, micro_batch=micro_batch(prefill, decode)
    )
    assert expected <= size <= 1.11 * expected


def test_without_decode_only_prefill_counts():
    once = Workload(batch=8, prompt_length=20, new_tokens=1)
    size = MODEL.layer_bytes("cpu", 8, workload=once, micro_batch=micro_batch(1, 4))
    assert prefill_bytes(1) <= size <= 1.11 * prefill_bytes(1)


def test_no_measured_prefill_is_predicted_too_small():
    """The compiler's bytes are no straight line here, and never above the fitted one."""
    rows = [
        layer_time("prefill", rows, 32, 1.0, workspace=working_bytes(rows, 32) * rows)
        for rows in (1, 2, 8)
    ]
    model = fit_workspace(measurements(*rows), ARCHITECTURE)
    for row in rows:
        size = model.layer_bytes(
            "cpu",
            8,
            workload=WORKLOAD,
            micro_batch=micro_batch(row.batch, row.batch),
            phases=("prefill",),
        )
        assert size >= row.workspace_bytes


def test_on_a_cpu_no_prefill_is_predicted_to_need_less_than_its_blocks():
    """Elsewhere a compiler may need less throughout."""
    rows = [
        layer_time("prefill", 1, length, 1.0, workspace=working_bytes(1, length) // 2)
        for length in (16, 64)
    ]
    kind = measured_kind("native-avx2")
    here = measurements(*rows, kind)
    elsewhere = measurements(*rows, replace(kind, platform="gpu"))

    def predicted(table):
        model = fit_workspace(table, ARCHITECTURE)
        pair = micro_batch(4, 4)
        return model.layer_bytes(
            "cpu", 8, workload=WORKLOAD, micro_batch=pair, phases=("prefill",)
        )

    assert predicted(here) >= working_bytes(4, 32) > predicted(elsewhere)


def test_embedding_and_head_count_the_rows_they_compute():
    """The embedding sees every prompt token, the head one row per prompt."""
    pair = micro_batch(2, 4)
    embedding = MODEL.embedding_bytes("cpu", workload=WORKLOAD, micro_batch=pair)
    assert embedding == pytest.approx(10 * 2 * 32, rel=0.01)
    assert MODEL.head_bytes("cpu", 16, micro_batch=pair) == 2000


def test_what_was_not_measured_is_refused_and_never_free():
    pair = micro_batch(1, 1)
    with pytest.raises(MeasurementError, match="no workspace of prefill at 4 bits"):
        MODEL.layer_bytes("cpu", 4, workload=WORKLOAD, micro_batch=pair)
    with pytest.raises(MeasurementError, match="no workspace of the head at 8 bits"):
        MODEL.head_bytes("cpu", 8, micro_batch=pair)
