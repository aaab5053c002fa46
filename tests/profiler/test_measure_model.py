from dataclasses import replace

import jax
import pytest

from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.arch.tensors import layer_tensors, tensors_bytes
from llmpq_jax.errors import MeasurementError
from llmpq_jax.profiler import contention as shared
from llmpq_jax.profiler import dispatch_overhead as calls
from llmpq_jax.profiler import session
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.measure_model import num_stacked, profile
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.measurements_file import read_measurements
from tests.profiler.fakes import (
    CALL_S,
    END_S,
    GRID,
    WAKING_S,
    FakeRoom,
    architecture,
    cluster,
    device,
    layer_s,
)
from tests.tiny_models import CONFIG, write_tiny_model


@pytest.fixture
def room(monkeypatch):
    room = FakeRoom()
    monkeypatch.setattr(session, "StageBench", room.bench)
    monkeypatch.setattr(calls, "ring", room.ring)
    monkeypatch.setattr(shared, "ring", room.ring)
    return room


def run(room, out=None, **overrides):
    arguments = {
        "model": architecture(),
        "cluster": cluster(),
        "activations": "float32",
        "grid": GRID,
        "stopwatch": room.stopwatch(),
        "out": out,
    } | overrides
    return profile(arguments.pop("model"), arguments.pop("cluster"), **arguments)


def test_every_precision_phase_and_shape_of_the_grid_gets_one_row(room):
    rows = run(room).layers
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


def test_layers_are_spread_over_as_many_devices_as_asked_and_ends_over_one(room):
    model = architecture(num_kv_heads=2)
    three = cluster(device("cpu:0", "a"), device("cpu:1", "a"), device("cpu:2", "b"))
    measured = run(room, model=model, cluster=three, bits=(8,), tensor_widths=(1, 2))
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
    stacks = [build["width"] for build in room.builds if build["num_layers"]]
    # Two widths of one kind, one of the other, and calls; the processor they share.
    assert sorted(stacks) == [1] * (2 + 2 * 3 + 3) + [2]
    ends = [build for build in room.builds if build["has_embedding"]]
    assert {build["width"] for build in ends} == {1}


def test_widths_are_measured_into_the_file_of_single_devices(room, tmp_path):
    out, model = tmp_path / "measurements.toml", architecture(num_kv_heads=2)
    first = run(room, out, model=model, bits=(8,))
    second = run(room, out, model=model, bits=(8,), tensor_widths=(2,))
    assert len(second.layers) == 2 * len(first.layers)
    room.builds.clear()
    assert run(room, out, model=model, bits=(8,), tensor_widths=(1, 2)) == second
    assert room.builds == []


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (
            3,
            r"tensor width 3: does not cut this model's layers evenly: expected one of \[1, 2\]",
        ),
        (4, "tensor width 4: no kind to be measured has more than 2 of its devices"),
    ],
)
def test_widths_that_cannot_be_are_refused(room, tmp_path, width, message):
    out = tmp_path / "measurements.toml"
    model = architecture(num_heads=4, num_kv_heads=4, hidden_size=64, embedding_size=64)
    with pytest.raises(MeasurementError, match=message):
        run(room, out, model=model, tensor_widths=(1, width))
    assert not out.exists()


def test_sizes_are_measured_in_no_order_so_that_drift_is_no_trend(room):
    rows = run(room, bits=(16,)).layers
    sizes = [(row.phase, row.batch, row.length) for row in rows]
    assert sizes != sorted(sizes)
    assert sizes == [(row.phase, row.batch, row.length) for row in run(room).layers][:8]


def test_what_is_held_out_is_measured_with_the_rest_and_judged_once(room, tmp_path):
    out = tmp_path / "measurements.toml"
    between = Shape(rows=2, num_tokens=16, num_slots=16)
    grid = replace(GRID, held_out=(between,))
    measured = run(room, out, grid=grid)
    held_out = [row for row in measured.layers if row.held_out]
    assert len(held_out) == 2 * 3
    assert len(measured.layers) == 24 + len(held_out)
    assert [(row.num_fitted, row.num_held_out) for row in measured.accuracy] == (
        [(4, 1)] * 6
    )
    # The fake stage takes rows times length, and the call.
    assert max(row.largest_error for row in measured.accuracy) < 1e-6
    assert run(room, out, grid=grid) == measured
    wider = replace(GRID, shapes=(*GRID.shapes, between))
    again = run(room, out, grid=wider)
    assert len(again.layers) == len(measured.layers) + len(held_out)
    assert again.accuracy == measured.accuracy


def test_neither_layers_nor_ends_carry_the_call(room):
    measured = run(room)
    stacked = num_stacked(architecture(), [device()], 2)
    assert stacked == 2
    for row in measured.layers:
        own_s = layer_s(row.phase, row.bits, row.batch, row.length)
        assert row.seconds == pytest.approx(own_s)
    for row in measured.ends:
        assert row.seconds == pytest.approx(END_S[row.part] * row.rows)
        assert row.spread == pytest.approx(0)
    (call,) = measured.dispatch
    assert call.back_to_back_seconds == pytest.approx(CALL_S)
    assert call.seconds == pytest.approx(CALL_S + WAKING_S)


def test_a_stage_of_so_many_layers_with_both_ends_is_foretold_exactly(room):
    measured = run(room)
    layer = next(r for r in measured.layers if (r.phase, r.batch) == ("decode", 4))
    ends = [r for r in measured.ends if r.rows == 4 and r.bits == 16]
    stage = room.bench(
        architecture(), None, num_layers=3, bits=16, has_embedding=True, has_head=True
    )
    before_s = room.now_s
    stage.call("decode", GRID.shapes[1])()
    foretold_s = 3 * layer.seconds + sum(end.seconds for end in ends)
    foretold_s += measured.dispatch[0].back_to_back_seconds
    assert foretold_s == pytest.approx(room.now_s - before_s)


def test_ends_links_and_the_shared_processor_are_measured_too(room):
    measured = run(room)
    ends = [(row.part, row.bits, row.rows) for row in measured.ends]
    assert ends == [
        *(("embedding", 16, rows) for rows in (1, 4, 16, 64)),
        *(("head", bits, rows) for bits in (16, 8) for rows in (1, 4)),
    ]
    assert [row.num_bytes for row in measured.links] == [
        tokens * 32 * 4 for tokens in (1, 4, 16, 64)
    ]
    assert {(row.source_kind, row.target_kind) for row in measured.links} == {
        ("cpu-emulated", "cpu-emulated")
    }
    # The fake clock adds all threads' work up: nothing overlaps.
    assert [(row.node, row.phase, row.capacity) for row in measured.shared] == [
        ("node0", "prefill", 1.0),
        ("node0", "decode", 1.0),
    ]
    assert [row.kind for row in measured.dispatch] == ["cpu-emulated"]


def test_a_capacity_that_the_cluster_file_says_is_not_measured(room):
    assert run(room, cluster=cluster(shared_capacity=1.5)).shared == ()
    assert run(room, cluster=cluster(device("cpu:0"))).shared == ()


def test_a_device_alone_has_no_links(room):
    assert run(room, cluster=cluster(device("cpu:0"))).links == ()


def test_each_kind_is_measured_once_and_links_join_every_pair_of_kinds(room):
    both = cluster(device("cpu:0", "a"), device("cpu:1", "a"), device("cpu:2", "b"))
    measured = run(room, cluster=both)
    assert [row.kind for row in measured.kinds] == ["a", "b"]
    assert len(measured.layers) == 2 * 24
    pairs = {(row.source_kind, row.target_kind) for row in measured.links}
    assert pairs == {("a", "a"), ("a", "b"), ("b", "a")}


def test_progress_counts_every_row_that_is_measured(room):
    heard = []
    measured = run(room, on_progress=lambda *what: heard.append(what))
    count = sum(
        len(rows)
        for rows in (
            measured.layers,
            measured.ends,
            measured.dispatch,
            measured.links,
            measured.shared,
        )
    )
    assert [(done, total) for done, total, _ in heard] == [
        (done, count) for done in range(1, count + 1)
    ]
    assert "cpu-emulated: prefill of 1 × 16 at 16 bits" in {what for *_, what in heard}


@pytest.mark.parametrize("visits", [3, 5])
def test_sizes_are_visited_in_turns_and_a_slow_while_counts_by_its_share(room, visits):
    quiet = run(room)
    room.slow_visit = 2
    heard = []
    stopwatch = room.stopwatch(visits=visits, min_repeats=3 * visits)
    measured = run(
        room, stopwatch=stopwatch, on_progress=lambda *what: heard.append(what)
    )
    # One visit takes three times as long: also the call, which the two layers of a stack
    # share and which is taken off once.
    more = 2 / visits
    assert [row.seconds for row in measured.layers] == pytest.approx(
        [row.seconds * (1 + more) + more * CALL_S / 2 for row in quiet.layers]
    )
    assert all(
        now.seconds > before.seconds
        for now, before in zip(measured.ends, quiet.ends, strict=True)
    )
    done = [done for done, *_ in heard]
    assert done == sorted(done)
    others = len(quiet.dispatch) + len(quiet.links) + len(quiet.shared)
    assert heard[-1][0] == len(quiet.layers) + len(quiet.ends) + others
    assert {total for _, total, _ in heard} == {heard[-1][0]}
    # A layer's size is not visited again before all others were.
    layers = [what for *_, what in heard if "16 bits" in what and " × " in what]
    assert len(layers) == visits * 8
    assert layers == layers[:8] * visits


def test_a_finished_file_is_read_and_nothing_is_measured_again(room, tmp_path):
    out = tmp_path / "measurements.toml"
    first = run(room, out)
    assert read_measurements(out) == first
    room.builds.clear()
    content = out.read_bytes()
    assert run(room, out) == first
    assert room.builds == []
    assert out.read_bytes() == content


def test_an_interrupted_run_goes_on_where_it_was(room, tmp_path):
    out = tmp_path / "measurements.toml"
    whole = run(room, out)
    content = out.read_text()
    rows = content.split("\n[[")
    for kept in (1, 2, 10, 27, len(rows) - 1):
        # Cut inside the row after those that are kept.
        out.write_text("\n[[".join(rows[:kept]) + "\n[[" + rows[kept][:20])
        heard = []
        resumed = run(room, out, on_progress=lambda *what: heard.append(what))  # noqa: B023
        assert resumed == whole
        assert read_measurements(out) == whole
        # All but the header, what was kept, and the rows of the kind and of its drift.
        assert 0 <= len(rows) - max(kept, 2) - len(heard) <= 1


def test_overwriting_starts_anew(room, tmp_path):
    out = tmp_path / "measurements.toml"
    run(room, out)
    room.builds.clear()
    measured = run(room, out, overwrites=True, bits=(8,))
    assert {row.bits for row in measured.layers} == {8}
    assert read_measurements(out) == measured


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"activations": "bfloat16"},
            r"measurements .*: activations: found 'float32', expected 'bfloat16' to go on there: choose another file, or overwrite this one",
        ),
        ({"group_size": 64}, r"group_size: found 128, expected 64"),
        (
            {"model": architecture(hidden_size=64, embedding_size=64)},
            r"layer_shape: found 'sha256:[0-9a-f]{64}', expected 'sha256:[0-9a-f]{64}'",
        ),
    ],
)
def test_a_file_of_other_measurements_is_refused(room, tmp_path, overrides, message):
    out = tmp_path / "measurements.toml"
    run(room, out, bits=(16,))
    content = out.read_bytes()
    with pytest.raises(MeasurementError, match=message):
        run(room, out, **overrides)
    assert out.read_bytes() == content


def test_a_kind_measured_with_another_driver_is_refused(room, tmp_path):
    out = tmp_path / "measurements.toml"
    driver = run(room, out, bits=(16,)).kinds[0].driver
    assert driver
    out.write_text(out.read_text().replace(f'driver = "{driver}"', 'driver = "old"'))
    with pytest.raises(MeasurementError, match="driver: found 'old', expected "):
        run(room, out, bits=(16,))


def test_how_steady_the_device_was_is_written_once_for_each_run(room, tmp_path):
    out = tmp_path / "measurements.toml"
    run(room, out, bits=(16,))
    assert len(run(room, out, bits=(16, 8)).drift) == 2
    assert len(run(room, out, bits=(16, 8)).drift) == 2
    for row in read_measurements(out).drift:
        assert row.fastest <= 1 <= row.slowest


def test_a_cpu_is_known_by_its_name_and_cores(room):
    (kind,) = run(room, bits=(16,)).kinds
    assert kind.device.endswith(" cores")


def test_a_kind_measured_with_another_jax_is_refused(room, tmp_path):
    out = tmp_path / "measurements.toml"
    run(room, out, bits=(16,))
    text = out.read_text().replace(jax.__version__, "0.1.2")
    out.write_text(text)
    message = r"kind 'cpu-emulated': jax_version: found '0.1.2', expected "
    with pytest.raises(MeasurementError, match=message):
        run(room, out, bits=(16,))


def test_a_second_kind_is_measured_into_the_file_of_the_first(room, tmp_path):
    out = tmp_path / "measurements.toml"
    both = cluster(device("cpu:0", "a"), device("cpu:1", "b"))
    run(room, out, cluster=both, kinds=("a",), bits=(16,))
    room.builds.clear()
    measured = run(room, out, cluster=both, kinds=("b",), bits=(16,))
    assert [row.kind for row in read_measurements(out).kinds] == ["a", "b"]
    assert [row.kind for row in measured.layers] == ["a"] * 8 + ["b"] * 8
    stacks = [build["num_layers"] for build in room.builds if build["num_layers"]]
    # Layers to tell a call by, then those at one precision.
    assert stacks == [1, 2, 2, 4]


def test_what_does_not_fit_the_device_is_left_out(room):
    room.fails = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"
    heard = []
    measured = run(
        room,
        cluster=cluster(device("cpu:0")),
        on_progress=lambda _done, _total, what: heard.append(what),
    )
    assert measured.layers == ()
    assert measured.ends == ()
    line = "cpu-emulated: prefill of 1 × 16 at 16 bits: does not fit, left out"
    assert line in heard


def test_other_failures_of_the_device_are_not_hidden(room):
    room.fails = "INTERNAL: something broke"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something broke"):
        run(room)


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
        activations="float32",
        bits=(16,),
        grid=type(GRID).of((2,), ((8, 16),)),
        stopwatch=Stopwatch(warm_ups=0, warm_up_s=0, min_repeats=1, max_s=0),
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
    assert [(row.part, row.bits) for row in measured.ends] == [
        ("embedding", 16),
        ("embedding", 16),
        ("head", 16),
        ("head", 8),
    ]
    every = [*measured.layers, *measured.ends, *measured.links]
    assert all(row.seconds > 0 for row in every)
    assert all(row.workspace_bytes > 0 for row in measured.layers)
    assert all(1 <= row.capacity <= 2 for row in measured.shared)
    (call,) = measured.dispatch
    assert 0 < call.back_to_back_seconds <= call.seconds < 1
