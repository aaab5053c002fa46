from dataclasses import replace

import jax
import pytest

from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.tensors import layer_tensors, tensors_bytes
from llmpq_jax.errors import MeasurementError
from llmpq_jax.profiler import contention, dispatch_overhead, session
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.measure_model import num_stacked, profile
from llmpq_jax.profiler.session import ProfileOptions
from llmpq_jax.profiler.stage_bench import StageContents
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.measurements_file import read_measurements
from tests.profiler.fakes import (
    GRID,
    OVERHEAD_S,
    PART_S,
    WAKING_S,
    FakeMachine,
    architecture,
    cluster,
    device,
    layer_s,
)
from tests.support.tiny_models import CONFIG, write_tiny_model


@pytest.fixture
def machine(monkeypatch):
    machine = FakeMachine()
    monkeypatch.setattr(session, "StageBench", machine.bench)
    monkeypatch.setattr(dispatch_overhead, "Ring", machine.ring)
    monkeypatch.setattr(contention, "Ring", machine.ring)
    return machine


def run(
    machine,
    out=None,
    *,
    model=None,
    on=None,
    overwrites=False,
    on_progress=None,
    **options,
):
    options = {
        "activations": "float32",
        "grid": GRID,
        "stopwatch": machine.stopwatch(),
    } | options
    return profile(
        model or architecture(),
        on or cluster(),
        ProfileOptions(**options),
        out=out,
        overwrites=overwrites,
        on_progress=on_progress or (lambda *_: None),
    )


def test_every_precision_phase_and_shape_of_the_grid_gets_one_row(machine):
    rows = run(machine).layers
    found = [(row.phase, row.bits, row.batch, row.length) for row in rows]
    lengths = {"prefill": (16, 8), "decode": (32, 16)}
    expected = {
        (phase, bits, batch, length)
        for phase in ("prefill", "decode")
        for bits in (16, 8, 4)
        for batch in (1, 4)
        for length in lengths[phase]
    }
    assert len(found) == len(expected)
    assert set(found) == expected
    assert {row.workspace_bytes for row in rows} == {100, 400, 10, 40}


def test_layers_are_split_over_as_many_devices_as_asked_and_the_embedding_is_not(
    machine,
):
    model = architecture(num_kv_heads=2)
    three = cluster(device("cpu:0", "a"), device("cpu:1", "a"), device("cpu:2", "b"))
    measured = run(machine, model=model, on=three, bits=(8,), tensor_widths=(1, 2))
    assert {(row.kind, row.tensor) for row in measured.layers} == {
        ("a", 1),
        ("a", 2),
        ("b", 1),
    }
    sizes = {
        width: {
            (row.phase, row.batch, row.length)
            for row in measured.layers
            if (row.kind, row.tensor) == ("a", width)
        }
        for width in (1, 2)
    }
    assert sizes[1] == sizes[2]
    stacks = [build["width"] for build in machine.builds if build["num_layers"]]
    # Two widths of one kind, one of the other, overheads, and the processor they share.
    assert sorted(stacks) == [1] * (2 + 2 * 3 + 3) + [2]
    embeddings = [build for build in machine.builds if build["has_embedding"]]
    assert {build["width"] for build in embeddings} == {1}


def test_widths_are_measured_into_the_file_of_single_devices(machine, tmp_path):
    out, model = tmp_path / "measurements.toml", architecture(num_kv_heads=2)
    first = run(machine, out, model=model, bits=(8,))
    second = run(machine, out, model=model, bits=(8,), tensor_widths=(2,))
    assert len(second.layers) == 2 * len(first.layers)
    machine.builds.clear()
    assert run(machine, out, model=model, bits=(8,), tensor_widths=(1, 2)) == second
    assert machine.builds == []


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (
            3,
            r"tensor width 3: does not divide this model's layers evenly: expected one of \[1, 2\]",
        ),
        (4, "tensor width 4: no kind to be measured has more than 2 of its devices"),
    ],
)
def test_widths_that_cannot_be_are_refused(machine, tmp_path, width, message):
    out = tmp_path / "measurements.toml"
    model = architecture(num_heads=4, num_kv_heads=4, hidden_size=64, embedding_size=64)
    with pytest.raises(MeasurementError, match=message):
        run(machine, out, model=model, tensor_widths=(1, width))
    assert not out.exists()


def test_sizes_are_measured_in_random_order_so_that_drift_is_no_trend(machine):
    rows = run(machine, bits=(16,)).layers
    sizes = [(row.phase, row.batch, row.length) for row in rows]
    assert sizes != sorted(sizes)
    assert (
        sizes == [(row.phase, row.batch, row.length) for row in run(machine).layers][:8]
    )


def test_held_out_sizes_are_measured_with_the_rest_and_evaluated_once(
    machine, tmp_path
):
    out = tmp_path / "measurements.toml"
    between = Shape(rows=2, num_tokens=16, num_slots=16)
    grid = replace(GRID, held_out=(between,))
    measured = run(machine, out, grid=grid)
    held_out = [row for row in measured.layers if row.held_out]
    assert len(held_out) == 2 * 3
    assert len(measured.layers) == 24 + len(held_out)
    assert [(row.num_fitted, row.num_held_out) for row in measured.accuracy] == (
        [(4, 1)] * 6
    )
    # The fake stage takes rows times length, and the overhead.
    assert max(row.largest_error for row in measured.accuracy) < 1e-6
    assert run(machine, out, grid=grid) == measured
    wider = replace(GRID, shapes=(*GRID.shapes, between))
    again = run(machine, out, grid=wider)
    assert len(again.layers) == len(measured.layers) + len(held_out)
    assert again.accuracy == measured.accuracy


def test_neither_layers_nor_embedding_nor_head_contain_the_dispatch_overhead(machine):
    measured = run(machine)
    stacked = num_stacked(architecture(), [device()], 2)
    assert stacked == 2
    for row in measured.layers:
        own_s = layer_s(row.phase, row.bits, row.batch, row.length)
        assert row.seconds == pytest.approx(own_s)
    for row in measured.vocabulary_layers:
        assert row.seconds == pytest.approx(PART_S[row.part] * row.rows)
        assert row.spread == pytest.approx(0)
    (overhead,) = measured.dispatch
    assert overhead.back_to_back_seconds == pytest.approx(OVERHEAD_S)
    assert overhead.seconds == pytest.approx(OVERHEAD_S + WAKING_S)


def test_a_stage_of_layers_embedding_and_head_is_predicted_exactly(machine):
    measured = run(machine)
    layer = next(r for r in measured.layers if (r.phase, r.batch) == ("decode", 4))
    parts = [r for r in measured.vocabulary_layers if r.rows == 4 and r.bits == 16]
    stage = machine.bench(
        architecture(),
        (None,),
        StageContents(num_layers=3, has_embedding=True, has_head=True),
    )
    before_s = machine.now_s
    stage.call("decode", GRID.shapes[1])()
    predicted_s = 3 * layer.seconds + sum(part.seconds for part in parts)
    predicted_s += measured.dispatch[0].back_to_back_seconds
    assert predicted_s == pytest.approx(machine.now_s - before_s)


def test_embedding_head_links_and_the_shared_processor_are_measured_too(machine):
    measured = run(machine)
    parts = [(row.part, row.bits, row.rows) for row in measured.vocabulary_layers]
    assert parts == [
        *(("embedding", 16, rows) for rows in (1, 4, 16, 64)),
        *(("head", bits, rows) for bits in (16, 8) for rows in (1, 4)),
    ]
    assert [row.num_bytes for row in measured.links] == [
        tokens * 32 * 4 for tokens in (1, 4, 16, 64)
    ]
    assert {(row.source_kind, row.target_kind) for row in measured.links} == {
        ("cpu-emulated", "cpu-emulated")
    }
    # The fake clock sums all threads' work: nothing overlaps.
    assert [(row.node, row.phase, row.capacity) for row in measured.shared] == [
        ("node0", "prefill", 1.0),
        ("node0", "decode", 1.0),
    ]
    assert [row.kind for row in measured.dispatch] == ["cpu-emulated"]


def test_a_capacity_that_the_cluster_file_gives_is_not_measured(machine):
    assert run(machine, on=cluster(shared_capacity=1.5)).shared == ()
    assert run(machine, on=cluster(device("cpu:0"))).shared == ()


def test_a_device_alone_has_no_links(machine):
    assert run(machine, on=cluster(device("cpu:0"))).links == ()


def test_each_kind_is_measured_once_and_links_join_every_pair_of_kinds(machine):
    both = cluster(device("cpu:0", "a"), device("cpu:1", "a"), device("cpu:2", "b"))
    measured = run(machine, on=both)
    assert [row.kind for row in measured.kinds] == ["a", "b"]
    assert len(measured.layers) == 2 * 24
    pairs = {(row.source_kind, row.target_kind) for row in measured.links}
    assert pairs == {("a", "a"), ("a", "b"), ("b", "a")}


def test_progress_counts_every_row_that_is_measured(machine):
    reports = []
    measured = run(machine, on_progress=lambda *what: reports.append(what))
    count = sum(
        len(rows)
        for rows in (
            measured.layers,
            measured.vocabulary_layers,
            measured.dispatch,
            measured.links,
            measured.shared,
        )
    )
    assert [(done, total) for done, total, _ in reports] == [
        (done, count) for done in range(1, count + 1)
    ]
    assert "cpu-emulated: prefill of 1 × 16 at 16 bits" in {
        what for *_, what in reports
    }


@pytest.mark.parametrize("rounds", [3, 5])
def test_sizes_take_turns_and_a_slow_while_counts_by_its_share(machine, rounds):
    quiet = run(machine)
    machine.slow_round = 2
    reports = []
    stopwatch = machine.stopwatch(rounds=rounds, min_repeats=3 * rounds)
    measured = run(
        machine, stopwatch=stopwatch, on_progress=lambda *what: reports.append(what)
    )
    # One round takes three times as long, and so does its overhead, which the two layers of
    # a stack share and which is subtracted once.
    more = 2 / rounds
    assert [row.seconds for row in measured.layers] == pytest.approx(
        [row.seconds * (1 + more) + more * OVERHEAD_S / 2 for row in quiet.layers]
    )
    assert all(
        now.seconds > before.seconds
        for now, before in zip(
            measured.vocabulary_layers, quiet.vocabulary_layers, strict=True
        )
    )
    done = [done for done, *_ in reports]
    assert done == sorted(done)
    others = len(quiet.dispatch) + len(quiet.links) + len(quiet.shared)
    assert reports[-1][0] == len(quiet.layers) + len(quiet.vocabulary_layers) + others
    assert {total for _, total, _ in reports} == {reports[-1][0]}
    # A layer's size is not timed again before all others were.
    layers = [what for *_, what in reports if "16 bits" in what and " × " in what]
    assert len(layers) == rounds * 8
    assert layers == layers[:8] * rounds


def test_a_finished_file_is_read_and_nothing_is_measured_again(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    first = run(machine, out)
    assert read_measurements(out) == first
    machine.builds.clear()
    content = out.read_bytes()
    assert run(machine, out) == first
    assert machine.builds == []
    assert out.read_bytes() == content


def test_an_interrupted_run_is_resumed_where_it_stopped(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    whole = run(machine, out)
    content = out.read_text()
    rows = content.split("\n[[")
    for kept in (1, 2, 10, 27, len(rows) - 1):
        # Cut inside the row after those that are kept.
        out.write_text("\n[[".join(rows[:kept]) + "\n[[" + rows[kept][:20])
        reports = []
        resumed = run(machine, out, on_progress=lambda *what: reports.append(what))  # noqa: B023
        assert resumed == whole
        assert read_measurements(out) == whole
        # All but the header, what was kept, and the rows of the kind and of its drift.
        assert 0 <= len(rows) - max(kept, 2) - len(reports) <= 1


def test_overwriting_discards_what_the_file_held(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    run(machine, out)
    machine.builds.clear()
    measured = run(machine, out, overwrites=True, bits=(8,))
    assert {row.bits for row in measured.layers} == {8}
    assert read_measurements(out) == measured


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"activations": "bfloat16"},
            r"measurements .*: activations: found 'float32', expected 'bfloat16' to resume it: choose another file, or overwrite this one",
        ),
        ({"group_size": 64}, r"group_size: found 128, expected 64"),
        (
            {"model": architecture(hidden_size=64, embedding_size=64)},
            r"layer_shape: found 'sha256:[0-9a-f]{64}', expected 'sha256:[0-9a-f]{64}'",
        ),
    ],
)
def test_a_file_of_other_measurements_is_refused(machine, tmp_path, overrides, message):
    out = tmp_path / "measurements.toml"
    run(machine, out, bits=(16,))
    content = out.read_bytes()
    with pytest.raises(MeasurementError, match=message):
        run(machine, out, **overrides)
    assert out.read_bytes() == content


def test_a_kind_measured_with_another_driver_is_refused(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    driver = run(machine, out, bits=(16,)).kinds[0].driver
    assert driver
    out.write_text(out.read_text().replace(f'driver = "{driver}"', 'driver = "old"'))
    with pytest.raises(MeasurementError, match="driver: found 'old', expected "):
        run(machine, out, bits=(16,))


def test_how_steady_the_device_was_is_written_once_for_each_run(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    run(machine, out, bits=(16,))
    assert len(run(machine, out, bits=(16, 8)).drift) == 2
    assert len(run(machine, out, bits=(16, 8)).drift) == 2
    for row in read_measurements(out).drift:
        assert row.fastest <= 1 <= row.slowest


def test_a_cpu_is_known_by_its_name_and_cores(machine):
    (kind,) = run(machine, bits=(16,)).kinds
    assert kind.device.endswith(" cores")


def test_a_kind_measured_with_another_jax_is_refused(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    run(machine, out, bits=(16,))
    text = out.read_text().replace(jax.__version__, "0.1.2")
    out.write_text(text)
    message = r"kind 'cpu-emulated': jax_version: found '0.1.2', expected "
    with pytest.raises(MeasurementError, match=message):
        run(machine, out, bits=(16,))


def test_a_second_kind_is_measured_into_the_file_of_the_first(machine, tmp_path):
    out = tmp_path / "measurements.toml"
    both = cluster(device("cpu:0", "a"), device("cpu:1", "b"))
    run(machine, out, on=both, kinds=("a",), bits=(16,))
    machine.builds.clear()
    measured = run(machine, out, on=both, kinds=("b",), bits=(16,))
    assert [row.kind for row in read_measurements(out).kinds] == ["a", "b"]
    assert [row.kind for row in measured.layers] == ["a"] * 8 + ["b"] * 8
    stacks = [build["num_layers"] for build in machine.builds if build["num_layers"]]
    # Layers to measure the overhead by, then those at one precision.
    assert stacks == [1, 2, 2, 4]


def test_what_does_not_fit_the_device_is_left_out(machine):
    machine.fails = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"
    reports = []
    measured = run(
        machine,
        on=cluster(device("cpu:0")),
        on_progress=lambda _done, _total, what: reports.append(what),
    )
    assert measured.layers == ()
    assert measured.vocabulary_layers == ()
    line = "cpu-emulated: prefill of 1 × 16 at 16 bits: does not fit, left out"
    assert line in reports


def test_other_failures_of_the_device_are_not_hidden(machine):
    machine.fails = "INTERNAL: something broke"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something broke"):
        run(machine)


def test_the_stack_is_an_even_share_that_fits_half_an_accelerator():
    model = architecture(num_layers=12)
    assert num_stacked(model, [device()], 12) == 1
    assert num_stacked(model, [device()], 4) == 3
    assert num_stacked(model, [device()], 1) == 4
    assert num_stacked(model, [device()], 30) == 1
    layer_bytes = tensors_bytes(layer_tensors(model), bits=16, group_size=128)
    small = device("cuda:0", "gpu", "cuda", memory_bytes=4 * layer_bytes)
    assert num_stacked(model, [device(), small], 1) == 2


def test_a_folder_with_a_config_alone_is_measured_for_real(tmp_path):
    folder = write_tiny_model(
        tmp_path / "model", hidden_size=32, head_dim=8, num_hidden_layers=2
    )
    (folder / "model.safetensors").unlink()
    measured = profile(
        folder,
        cluster(device("cpu:0"), device("cpu:1")),
        ProfileOptions(
            activations="float32",
            bits=(16,),
            grid=type(GRID).of((2,), ((8, 16),)),
            stopwatch=Stopwatch(warm_ups=0, warm_up_s=0, min_repeats=1, max_s=0),
        ),
    )
    assert measured.model == "model"
    expected = architecture(
        hidden_size=32,
        embedding_size=32,
        head_dim=8,
        num_heads=4,
        num_kv_heads=4,
        intermediate_size=CONFIG["intermediate_size"],
        vocabulary_size=CONFIG["vocab_size"],
    )
    assert measured.layer_shape == layer_shape_fingerprint(expected)
    assert [(row.phase, row.length) for row in measured.layers] == [
        ("prefill", 8),
        ("decode", 16),
    ]
    assert [(row.part, row.bits) for row in measured.vocabulary_layers] == [
        ("embedding", 16),
        ("embedding", 16),
        ("head", 16),
        ("head", 8),
    ]
    every = [*measured.layers, *measured.vocabulary_layers, *measured.links]
    assert all(row.seconds > 0 for row in every)
    assert all(row.workspace_bytes > 0 for row in measured.layers)
    assert all(1 <= row.capacity <= 2 for row in measured.shared)
    (overhead,) = measured.dispatch
    assert 0 < overhead.back_to_back_seconds <= overhead.seconds < 1
