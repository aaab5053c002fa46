from __future__ import annotations

import math

import pytest

from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.measurements import LayerTime, VocabularyLayerTime
from llmpq_jax.schema.toml import decode_record

LAYER = {
    "kind": "T4",
    "phase": "decode",
    "bits": 8,
    "batch": 4,
    "length": 64,
    "seconds": 1e-3,
    "spread": 0.01,
    "workspace_bytes": 1024,
}
END = {
    "kind": "T4",
    "part": "head",
    "rows": 4,
    "seconds": 1e-3,
    "spread": 0.01,
    "workspace_bytes": 1024,
}


def test_a_row_may_leave_out_defaults():
    row = decode_record(LayerTime, LAYER, where="row")
    assert (row.tensor, row.kv_bits) == (1, 16)
    assert decode_record(VocabularyLayerTime, END, where="row").bits == 16


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"phase": "training"},
            "phase: found 'training', input should be 'prefill' or",
        ),
        ({"bits": 2}, "bits: found 2, input should be 4, 8, 16 or 32"),
        ({"kv_bits": 4}, "kv_bits: found 4, input should be 8 or 16"),
        ({"seconds": "1 ms"}, "seconds: found '1 ms', input should be a valid number"),
        ({"batch": 1.5}, "batch: found 1.5, input should be a valid integer"),
        ({"batch": 0}, "batch: found 0, input should be greater than or equal to 1"),
        ({"seconds": -1.0}, "seconds: found -1.0, input should be greater than"),
        ({"seconds": math.nan}, "seconds: found .*, input should be a finite number"),
        ({"workspace_bytes": -1}, "workspace_bytes: found -1, input should be greater"),
    ],
)
def test_a_wrong_row_is_refused(change, complaint):
    with pytest.raises(MeasurementError, match=complaint):
        decode_record(LayerTime, LAYER | change, where="row", error=MeasurementError)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"part": "tail"}, "part: found 'tail', input should be 'embedding' or 'head'"),
        ({"bits": 4}, "bits: found 4, input should be 8, 16 or 32"),
    ],
)
def test_a_wrong_vocabulary_layer_is_refused(change, complaint):
    with pytest.raises(MeasurementError, match=complaint):
        decode_record(
            VocabularyLayerTime, END | change, where="row", error=MeasurementError
        )
