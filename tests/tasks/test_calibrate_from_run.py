"""After calibrating by a run, the same strategy is predicted to take what it took."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import layer_shape_fingerprint
from llmpq_jax.costmodel.assumed_sensitivity import assumed_sensitivity
from llmpq_jax.costmodel.links import transfer_s
from llmpq_jax.errors import LlmpqError
from llmpq_jax.planner import PlanRequest
from llmpq_jax.planner.instance.build import make_instance
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.runtime.analysis.batch_recorder import BatchRecorder
from llmpq_jax.runtime.analysis.run_record import write_run_record
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.measurements import (
    DispatchTime,
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    SharedCapacity,
    VocabularyLayerTime,
)
from llmpq_jax.schema.measurements_file import (
    header_text,
    read_measurements,
    row_text,
)
from llmpq_jax.schema.precision import USUAL_BITS
from llmpq_jax.schema.toml import to_toml
from llmpq_jax.stage.hardware import Machine
from llmpq_jax.stage.message import StageEvent
from llmpq_jax.tasks.calibrate_from_run import calibrate_from_run
from tests.support.tiny_models import make_strategy, write_tiny_model

MACHINE = Machine(
    device="made-up", driver="made-up", jax_version="0.0", kernel_path="native-avx512"
)
KINDS = ("quick", "slow")
SLOWNESS = {"quick": 1.0, "slow": 2.0}
# What each stage is found to take of a micro-batch.
TAKEN = {
    "prefill": {0: 3.1e-3, 1: 8.9e-3},
    "decode": {0: 1.7e-3, 1: 0.9e-3},
}
CLUSTER = Cluster(
    name="two",
    nodes=(
        Node(
            name="node0",
            devices=tuple(
                Device(name=f"cpu:{n}", kind=kind, platform="cpu", memory_bytes=1 << 30)
                for n, kind in enumerate(KINDS)
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("calibrated") / "model")


@pytest.fixture
def strategy(model):
    return make_strategy(
        model,
        [((0,), [16, 8]), ((1,), [4, 8])],
        batch=8,
        prompt_length=16,
        new_tokens=16,
        prefill=2,
        decode=4,
    )


def rows_of(kind):
    slow = SLOWNESS[kind]
    yield MeasuredKind(kind=kind, platform="cpu", date="2026-01-31", **asdict(MACHINE))
    for phase, each_s in (("prefill", 4e-6), ("decode", 1e-6)):
        for bits in USUAL_BITS:
            for batch in (1, 2, 8):
                for length in (16, 32):
                    yield LayerTime(
                        kind=kind,
                        phase=phase,  # pyright: ignore[reportArgumentType]
                        bits=bits,
                        batch=batch,
                        length=length,
                        seconds=slow * (1e-4 * bits + each_s * batch * length),
                        spread=0.0,
                        workspace_bytes=1000,
                    )
    for part, bits in (("embedding", 16), ("head", 16), ("head", 8)):
        for count in (1, 64):
            yield VocabularyLayerTime(
                kind=kind,
                part=part,  # pyright: ignore[reportArgumentType]
                bits=bits,  # pyright: ignore[reportArgumentType]
                rows=count,
                seconds=slow * (1e-5 + 1e-6 * count),
                spread=0.0,
                workspace_bytes=1000,
            )
    yield DispatchTime(kind=kind, seconds=slow * 2e-4, spread=0.0)
    for other in KINDS:
        yield LinkTime(
            source_kind=kind, target_kind=other, num_bytes=9, seconds=1e-6, spread=0.0
        )


@pytest.fixture
def table(model, tmp_path):
    """A file of measurements of two kinds, without anything shared."""
    header = Measurements(
        model="tiny",
        layer_shape=layer_shape_fingerprint(read_architecture(model)),
        activations="float32",
        group_size=128,
        kinds=(),
        layers=(),
        vocabulary_layers=(),
    )
    path = tmp_path / "measurements.toml"
    rows = [row for kind in KINDS for row in rows_of(kind)]
    path.write_text(header_text(header) + "".join(map(row_text, rows)))
    return path


def events_of(strategy, *, overlap=1, taken=None):
    """All micro-batches of the plan, `overlap` stages at a time, each as much slower."""
    taken = taken or TAKEN
    steps = range(1, strategy.workload.new_tokens)
    sizes = [("prefill", n, 0, 2, 16.0) for n in range(4)]
    sizes += [("decode", g, step, 4, 16.0 + step) for step in steps for g in (0, 1)]
    now = 0.0
    for phase, number, step, rows, tokens in sizes:
        for stage in (0, 1):
            took = taken[phase][stage] * overlap
            yield StageEvent(
                stage=stage,
                phase=phase,  # pyright: ignore[reportArgumentType]
                micro_batch=number,
                step=step,
                received_s=now,
                started_s=now,
                ended_s=now + took,
                rows=rows,
                tokens=tokens,
                slots=32,
            )
            now += took if overlap == 1 or stage == 1 else 0.0


def written(path, strategy, events, *, machine: Machine | None = MACHINE):
    summary = BatchRecorder(strategy, started_s=0.0, num_first_prefills=4)
    summary.add(events)
    batch = summary.record(
        ended_s=1.0,
        num_requests=8,
        num_new_tokens=128,
        memory_bytes=[1, 1],
        peaks={},
        machines=[MACHINE] * 2,
    )
    stages = tuple(replace(times, machine=machine) for times in batch.stages)
    header = {"date": "2026-02-01", "strategy": tomllib.loads(to_toml(strategy))}
    write_run_record(path, [replace(batch, stages=stages)], header, [()])
    return path


def evaluated(strategy, model, path):
    """The planner's seconds of that very strategy."""
    architecture = read_architecture(model)
    sensitivity = assumed_sensitivity(
        architecture,
        name="tiny",
        fingerprint=strategy.model.fingerprint,
        group_size=128,
    )
    request = PlanRequest(
        architecture=architecture,
        model=strategy.model,
        cluster=CLUSTER,
        measurements=read_measurements(path),
        sensitivity=sensitivity,
        workload=strategy.workload,
        activations="float32",
        group_size=128,
    )
    problem = make_problem(request)
    instance = make_instance(
        problem, strategy.micro_batch, strategy.precision, omega_budget=None
    )
    bits_indices = tuple(
        tuple(problem.bits.index(bits) for bits in stage.bits)
        for stage in strategy.stages
    )
    return evaluate(instance, Candidate(devices=(0, 1), bits_indices=bits_indices))


@pytest.fixture
def calibrates(model, table, tmp_path):
    def calibrate(record, **changes):
        given = {"model": model, "cluster": CLUSTER} | changes
        found = calibrate_from_run(record, table, **given)
        if found.rows:
            table.write_text(found.text)
        return found

    return calibrate


def test_what_was_taken_is_predicted_of_the_same_strategy(
    strategy, model, table, calibrates, tmp_path
):
    before = evaluated(strategy, model, table)
    assert before.stages_s[1] != pytest.approx(tuple(TAKEN["decode"].values()), rel=0.1)
    found = calibrates(written(tmp_path / "run.jsonl", strategy, events_of(strategy)))
    assert [(row.kind, row.phase, row.num_passes) for row in found.rows] == [
        ("quick", "decode", 30),
        ("slow", "decode", 30),
    ]
    assert [note.partition(":")[0] for note in found.notes] == [
        "quick in prefill",
        "slow in prefill",
    ]
    after = evaluated(strategy, model, table)
    assert after.stages_s[1] == pytest.approx(tuple(TAKEN["decode"].values()))
    assert after.memory_bytes == before.memory_bytes
    assert after.omega == before.omega


def test_prefill_is_corrected_where_enough_of_it_was_run(
    strategy, model, table, calibrates, tmp_path
):
    twice = [
        replace(event, micro_batch=event.micro_batch + 4 * again)
        for again in (0, 1)
        for event in events_of(strategy)
    ]
    assert calibrates(written(tmp_path / "run.jsonl", strategy, twice)).notes == ()
    after = evaluated(strategy, model, table)
    assert after.stages_s[0] == pytest.approx(tuple(TAKEN["prefill"].values()))
    assert after.stages_s[1] == pytest.approx(tuple(TAKEN["decode"].values()))


def test_chunks_of_a_prompt_are_one_micro_batch(strategy, calibrates, tmp_path, table):
    events = [
        replace(event, tokens=8.0, step=step, ended_s=event.started_s + took / 2)
        if event.phase == "prefill"
        else event
        for event in events_of(strategy)
        for took in [event.ended_s - event.started_s]
        for step in ((0, 1) if event.phase == "prefill" else (event.step,))
    ]
    many = [
        replace(event, micro_batch=event.micro_batch + 4 * again)
        for again in (0, 1)
        for event in events
    ]
    chunked = calibrates(written(tmp_path / "run.jsonl", strategy, many))
    prefills = [row for row in chunked.rows if row.phase == "prefill"]
    assert [row.num_passes for row in prefills] == [8, 8]
    for row, taken_s in zip(prefills, TAKEN["prefill"].values(), strict=True):
        assert row.measured_s == pytest.approx(8 * taken_s)


def test_a_shared_machine_is_not_counted_twice(
    strategy, model, table, calibrates, tmp_path
):
    """Stages that each have half of a machine would be twice as quick alone."""
    table.write_text(
        table.read_text() + row_text(SharedCapacity(node="node0", capacity=1.0))
    )
    interchangeable_groups = {
        "prefill": {0: 2e-3, 1: 2e-3},
        "decode": {0: 1e-3, 1: 1e-3},
    }
    events = events_of(strategy, overlap=2, taken=interchangeable_groups)
    calibrates(written(tmp_path / "run.jsonl", strategy, events))
    after = evaluated(strategy, model, table)
    assert after.stages_s[1] == pytest.approx((1e-3, 1e-3))
    rounds = strategy.workload.new_tokens - 1
    assert after.seconds.decode_s == pytest.approx(rounds * 2 * (1e-3 + 1e-3))


def test_the_same_run_counts_once(strategy, table, calibrates, tmp_path):
    record = written(tmp_path / "run.jsonl", strategy, events_of(strategy))
    first = calibrates(record)
    text = table.read_text()
    again = calibrates(record.rename(tmp_path / "renamed.jsonl"))
    assert again.rows == ()
    assert again.measurements == first.measurements == read_measurements(table)
    assert table.read_text() == text


def test_runs_count_together_and_no_correction_is_corrected(
    strategy, model, table, calibrates, tmp_path
):
    """A second run is compared with what the table predicts without the first."""
    calibrates(written(tmp_path / "one.jsonl", strategy, events_of(strategy)))
    slower = {
        phase: {stage: 3 * s for stage, s in by_stage.items()}
        for phase, by_stage in TAKEN.items()
    }
    events = events_of(strategy, taken=slower)
    calibrates(written(tmp_path / "two.jsonl", strategy, events))
    after = evaluated(strategy, model, table)
    mean = tuple(2 * taken_s for taken_s in TAKEN["decode"].values())
    assert after.stages_s[1] == pytest.approx(mean)


APART = Cluster(
    name="apart",
    nodes=tuple(
        replace(CLUSTER.nodes[0], name=f"node{n}", devices=(device,))
        for n, device in enumerate(
            replace(device, name="cpu:0") for device in CLUSTER.nodes[0].devices
        )
    ),
)


def sent_s(num_bytes):
    return 2e-4 + num_bytes / 1e9


def test_links_between_nodes_are_measured_by_what_was_sent_over_them(
    strategy, table, calibrates, tmp_path
):
    first, second = strategy.stages
    second = replace(second, device="node1/cpu:0")
    apart = replace(strategy, stages=(first, second))
    events, made_s = [], 0.0
    for event in events_of(strategy):
        if event.stage == 1:
            tokens = event.tokens if event.phase == "prefill" else 1
            # Of 64 float32 numbers each.
            arrived_s = made_s + sent_s(event.rows * tokens * 64 * 4)
            event = replace(event, received_s=arrived_s)
        made_s = event.ended_s
        events.append(event)
    twice = [
        replace(event, micro_batch=event.micro_batch + 4 * again)
        for again in (0, 1)
        for event in events
    ]
    record = written(tmp_path / "run.jsonl", apart, twice)
    found = calibrates(record, cluster=APART)
    assert [(row.source_node, row.target_node) for row in found.links] == (
        [("node0", "node1")] * 2
    )
    assert {row.num_bytes for row in found.links} == {4 * 256, 2 * 16 * 256}
    known = read_measurements(table)
    for num_bytes in (4 * 256, 2 * 16 * 256):
        for source, target in (("node0", "node1"), ("node1", "node0")):
            found_s = transfer_s(
                APART,
                known,
                source=APART.find(f"{source}/cpu:0"),
                target=APART.find(f"{target}/cpu:0"),
                num_bytes=num_bytes,
            )
            assert found_s == pytest.approx(sent_s(num_bytes))
    assert calibrates(record, cluster=APART).links == ()


def test_a_link_of_the_cluster_file_is_reported_to_come_first(
    strategy, calibrates, tmp_path
):
    first, second = strategy.stages
    apart = replace(strategy, stages=(first, replace(second, device="node1/cpu:0")))
    late = [
        replace(event, received_s=event.received_s + 1e-3 * event.stage)
        for event in events_of(strategy)
    ]
    link = Link(between=("node1", "node0"), bandwidth_bytes_per_s=1e9)
    cluster = replace(APART, links=(link,))
    found = calibrates(written(tmp_path / "run.jsonl", apart, late), cluster=cluster)
    assert found.links
    (note,) = [note for note in found.notes if "[[link]]" in note]
    assert note.startswith("from node0 to node1: the cluster file has a [[link]]")


def test_within_a_node_a_run_says_nothing_of_links(strategy, calibrates, tmp_path):
    record = written(tmp_path / "run.jsonl", strategy, events_of(strategy))
    assert calibrates(record).links == ()


@pytest.fixture
def refused(calibrates, table):
    def refuse(record, **changes):
        text = table.read_text()
        with pytest.raises(LlmpqError) as caught:
            calibrates(record, **changes)
        message = str(caught.value)
        assert "\n" not in message
        assert "expected" in message
        assert table.read_text() == text
        return message

    return refuse


def test_a_run_of_too_few_steps_is_refused(strategy, refused, tmp_path):
    few = [e for e in events_of(strategy) if e.phase == "prefill" or e.step <= 3]
    message = refused(written(tmp_path / "run.jsonl", strategy, few))
    assert "quick in prefill: 4 micro-batches, fewer than 8: left out" in message
    assert "slow in decode: 6 micro-batches, fewer than 8" in message
    assert "run more prompts, or for longer" in message


def test_another_model_is_refused(strategy, refused, tmp_path):
    record = written(tmp_path / "run.jsonl", strategy, events_of(strategy))
    other = write_tiny_model(tmp_path / "other", seed=1)
    assert "expected the same; name the model that was run" in refused(
        record, model=other
    )
    wider = write_tiny_model(tmp_path / "wider", intermediate_size=256)
    assert "run `llmpq-jax profile` for this model" in refused(record, model=wider)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_path", "xla"),
        ("device", "another"),
        ("jax_version", "9.9"),
        ("driver", "newer"),
    ],
)
def test_another_device_or_other_kernels_are_refused(
    strategy, refused, tmp_path, name, value
):
    other = replace(MACHINE, **{name: value})
    record = written(
        tmp_path / "run.jsonl", strategy, events_of(strategy), machine=other
    )
    message = refused(record)
    assert f"ran with {name} '{value}', kind 'quick' was measured with" in message


def test_what_does_not_belong_together_is_refused(strategy, refused, tmp_path, table):
    events = list(events_of(strategy))
    record = written(tmp_path / "run.jsonl", strategy, events)
    node = replace(CLUSTER.nodes[0], name="elsewhere")
    assert "which cluster 'two' lacks" in refused(
        record, cluster=replace(CLUSTER, nodes=(node,))
    )
    devices = tuple(replace(d, kind="new") for d in CLUSTER.nodes[0].devices)
    node = replace(CLUSTER.nodes[0], devices=devices)
    assert "whose kind 'new' was not measured" in refused(
        record, cluster=replace(CLUSTER, nodes=(node,))
    )
    half = replace(strategy.precision, activations="bfloat16")
    other = written(tmp_path / "b.jsonl", replace(strategy, precision=half), events)
    assert "activations is bfloat16, the measurements have float32" in refused(other)
    sizeless = [replace(event, rows=0) for event in events]
    assert "does not say the size" in refused(
        written(tmp_path / "old.jsonl", strategy, sizeless)
    )
    assert "does not say the size" in refused(
        written(tmp_path / "none.jsonl", strategy, [])
    )
    assert "does not say what node0/cpu:0 is" in refused(
        written(tmp_path / "unnamed.jsonl", strategy, events, machine=None)
    )
    roofline = table.read_text().replace('"measured"', '"roofline"')
    table.write_text(roofline)
    assert "is predicted from data-sheet figures" in refused(record)


def test_a_stage_on_a_mesh_is_left_out(model, refused, tmp_path):
    cluster_devices = tuple(
        Device(name=f"cpu:{n}", kind="quick", platform="cpu", memory_bytes=1 << 30)
        for n in range(4)
    )
    cluster = Cluster(name="four", nodes=(Node(name="node0", devices=cluster_devices),))
    strategy = make_strategy(
        model, [((0, 1), [16, 8]), ((2, 3), [4, 8])], new_tokens=16, prompt_length=16
    )
    record = written(tmp_path / "run.jsonl", strategy, events_of(strategy))
    assert "is spread over several devices: left out" in refused(
        record, cluster=cluster
    )


def test_a_record_says_what_each_stage_ran_on(strategy, tmp_path):
    record = written(tmp_path / "run.jsonl", strategy, events_of(strategy))
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    (batch,) = [line for line in lines if line["record"] == "batch"]
    assert [stage["machine"] for stage in batch["stages"]] == [asdict(MACHINE)] * 2
