import re
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.measurement_checks import (
    MAX_AGE_DAYS,
    check_kinds,
    check_measurements,
    staleness_warnings,
)
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.measurements import (
    Accuracy,
    DispatchTime,
    Drift,
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    Observed,
    SharedCapacity,
    VocabularyLayerTime,
)
from llmpq_jax.schema.measurements_file import (
    Row,
    header_text,
    read_measurements,
    row_text,
    with_row,
)
from tests.costmodel.records import architecture

HEADER = Measurements(
    model="tiny",
    layer_shape=layer_shape_fingerprint(architecture()),
    activations="float32",
    group_size=128,
    kinds=(),
    layers=(),
    vocabulary_layers=(),
)
ROWS = (
    MeasuredKind(
        kind="prozessor-für-alles",
        device="cpu",
        platform="cpu",
        jax_version="0.10.2",
        kernel_path="xla",
        date="2026-01-02",
    ),
    LayerTime(
        kind="prozessor-für-alles",
        phase="decode",
        bits=4,
        batch=16,
        length=128,
        seconds=1.25e-3,
        spread=0.031,
        workspace_bytes=123456,
    ),
    VocabularyLayerTime(
        kind="prozessor-für-alles",
        part="head",
        bits=8,
        rows=16,
        seconds=2.5e-3,
        spread=0.02,
        workspace_bytes=4096,
    ),
    LinkTime(source_kind="a", target_kind="b", num_bytes=640, seconds=3e-4, spread=0.1),
    DispatchTime(kind="a", seconds=2e-4, spread=0.1, back_to_back_seconds=1.5e-4),
    SharedCapacity(node="node0", phase="decode", capacity=1.375),
    Accuracy(
        kind="a",
        phase="decode",
        bits=8,
        num_fitted=9,
        num_held_out=3,
        mean_error=0.05,
        largest_error=0.1,
        spread=0.02,
    ),
    Drift(kind="a", slowest=1.1, fastest=0.95),
    Observed(
        kind="a",
        phase="decode",
        predicted_s=1.5,
        measured_s=2.25,
        num_passes=64,
        run="läufe.jsonl",
        record="sha256:0",
        strategy="sha256:1",
        date="2026-02-01T00:00:00+00:00",
    ),
)
KINDS_OF_ROWS = [type(row).__name__ for row in ROWS]


def write(path, rows):
    path.write_text(header_text(HEADER) + "".join(map(row_text, rows)), "utf-8")


def measurements_of(rows):
    measurements = HEADER
    for row in rows:
        measurements = with_row(measurements, row)
    return measurements


def test_the_header_holds_no_rows():
    assert {type(row) for row in ROWS} == set(get_args(Row))
    assert header_text(measurements_of(ROWS)) == header_text(HEADER)


@given(rows=st.permutations(ROWS))
def test_rows_are_read_in_any_order(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("growing") / "measurements.toml"
    write(path, rows)
    assert read_measurements(path) == measurements_of(rows)


@pytest.mark.parametrize("last", ROWS, ids=KINDS_OF_ROWS)
def test_a_file_truncated_in_its_last_row_holds_all_others(tmp_path, last):
    path = tmp_path / "measurements.toml"
    others = tuple(row for row in ROWS if row is not last)
    write(path, others)
    start = len(path.read_bytes())
    write(path, (*others, last))
    content = path.read_bytes()
    for end in range(start, len(content)):
        path.write_bytes(content[:end])
        assert read_measurements(path) == measurements_of(others), content[start:end]
    path.write_bytes(content)
    assert read_measurements(path) == measurements_of((*others, last))


def test_a_header_alone_is_a_file_without_rows(tmp_path):
    path = tmp_path / "measurements.toml"
    write(path, ())
    assert read_measurements(path) == HEADER


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory): expected a measurements"),
        (b"\xff\xfe\n", "is not UTF-8 text (byte 0): expected a measurements file"),
        (b"schema = = 1\n", "is not TOML: Invalid value"),
        (b"schema = 1\n", "model: missing, expected a value"),
        (b"schema = 1\n[[layer]]\nsize = = 3\n", "is not TOML: Invalid value"),
        (b"schema = 7\n", "schema: found 7, expected 1"),
    ],
)
def test_an_invalid_measurements_file_is_refused(tmp_path, content, message):
    path = tmp_path / "measurements.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeasurementError, match=re.escape(f"{path}: {message}")):
        read_measurements(path)


def test_an_unfinished_row_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "measurements.toml"
    text = header_text(HEADER) + "\n[[layer]]\nkind = 'a'\n" + row_text(ROWS[-1])
    path.write_text(text, "utf-8")
    with pytest.raises(MeasurementError, match=r"layer\[0\]\.phase: missing"):
        read_measurements(path)


def test_measurements_of_other_layers_are_refused():
    check_measurements(HEADER, architecture())
    deeper = replace(architecture(), num_layers=4, layer_windows=(None,) * 4)
    check_measurements(HEADER, deeper)
    wider = replace(architecture(), intermediate_size=512)
    message = r"measurements of tiny: found layers of shape sha256:[0-9a-f]{64}, expected sha256:[0-9a-f]{64}, the shape of this opt model: run `llmpq-jax profile`"
    with pytest.raises(MeasurementError, match=message):
        check_measurements(HEADER, wider)


def kind(**fields):
    known: dict[str, Any] = {
        "kind": "T4",
        "device": "Tesla T4",
        "platform": "cuda",
        "jax_version": "0.10.2",
        "kernel_path": "xla-sm75",
        "date": "2026-01-31",
    }
    return MeasuredKind(**(known | fields))


def room(**fields):
    known = {"name": "cuda:0", "kind": "T4", "platform": "cuda", "memory_bytes": 1}
    return Cluster(
        name="room", nodes=(Node(name="desk", devices=(Device(**(known | fields)),)),)
    )


@pytest.mark.parametrize(
    ("measured", "device"),
    [
        ({}, {}),
        ({"platform": "gpu"}, {}),
        ({"platform": "cpu"}, {"kind": "another"}),
    ],
)
def test_kinds_of_the_cluster_s_platform_are_accepted(measured, device):
    check_kinds(replace(HEADER, kinds=(kind(**measured),)), room(**device))


def test_a_kind_measured_on_another_platform_is_refused():
    measured = replace(HEADER, kinds=(kind(platform="cpu"),))
    message = (
        r"kind 'T4' was measured on platform 'cpu', desk/cuda:0 has 'cuda': expected"
    )
    with pytest.raises(MeasurementError, match=message):
        check_kinds(measured, room())


@pytest.mark.parametrize(
    ("fields", "days", "said"),
    [
        ({}, 1, []),
        ({}, MAX_AGE_DAYS, []),
        ({}, MAX_AGE_DAYS + 1, [f"T4 was measured {MAX_AGE_DAYS + 1} days ago"]),
        ({"date": "long ago"}, 1, []),
        (
            {"jax_version": "0.1"},
            1,
            ["T4 was measured with JAX 0.1, 0.10.2 is installed"],
        ),
        ({"jax_version": "none", "source": "roofline"}, 1000, []),
    ],
)
def test_old_measurements_and_those_of_another_jax_give_a_warning(fields, days, said):
    measured = replace(HEADER, kinds=(kind(**fields),))
    today = date(2026, 1, 31) + timedelta(days=days)
    found = staleness_warnings(measured, jax_version="0.10.2", today=today)
    assert [line.partition(":")[0] for line in found] == said
