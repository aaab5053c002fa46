from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmpq_jax.schema.measurements_file import header_text, read_measurements, row_text
from llmpq_jax.schema.record_files import (
    read_cluster,
    read_strategy,
    write_cluster,
    write_strategy,
)
from tests.cli.conftest import SIZES


@pytest.fixture(scope="module")
def plan(model, tmp_path_factory, cluster, measurements):
    """A plan as `solve` writes it, with its request."""
    from click.testing import CliRunner

    from llmpq_jax.cli import main

    path = tmp_path_factory.mktemp("explained") / "plan.toml"
    words = ["solve", "--model", model, "--cluster", cluster, *SIZES, "--out", path]
    words += ["--measurements", measurements, "--bits", "16,8", "--head-bits", "any"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return path


def edited(path, tmp_path, **changes):
    write_strategy(tmp_path / "edited.toml", replace(read_strategy(path), **changes))
    return tmp_path / "edited.toml"


def test_a_plan_is_explained_by_its_request(run, plan):
    result = run("explain", "--strategy", plan)
    assert result.exit_code == 0, result.output
    for text in (
        "Memory of each stage, on each of its devices",
        "Seconds of one micro-batch",
        "Solved with one change each",
        "10 % more speed of node0/cpu:",
        "memory without limit on node0/cpu:",
        "layers below 8 bits allowed",
        "quality      Σω = ",
        "proven within",
        "seconds are predicted; nothing was run",
    ):
        assert text in result.stdout
    assert "the measurements are not those" not in result.stderr


def test_a_program_may_read_it(run, plan):
    strategy = read_strategy(plan)
    values = json.loads(run("explain", "--strategy", plan, "--json").stdout)
    assert strategy.predicted is not None
    assert values["latency_s"] == pytest.approx(strategy.predicted.latency_s, rel=1e-5)
    assert values["fits"]
    assert values["source"] == "measured"
    for stage, planned in zip(values["stages"], strategy.stages, strict=True):
        assert planned.predicted is not None
        assert sum(stage["memory"].values()) == planned.predicted.memory_bytes
        assert stage["spare_bytes"] >= 0
    assert [phase["phase"] for phase in values["phases"]] == ["prefill", "decode"]
    first, *others = values["answers"]
    assert first["kind"] == "plan"
    assert {answer["kind"] for answer in others} >= {"speed", "memory", "decision"}
    for answer in others:
        if answer["objective"] is not None:
            assert answer["gain"] <= answer["max_gain"] + 1e-9


def test_without_solving_nothing_is_asked(run, plan):
    result = run("explain", "--strategy", plan, "--without-solving")
    assert "Seconds of one micro-batch" in result.stdout
    assert "Solved with one change" not in result.stdout
    assert "solving again" not in result.stderr


def test_no_more_of_anything_brings_nothing(run, plan):
    words = ("--more-memory", 0, "--more-speed", 0, "--more-loss", 0, "--json")
    values = json.loads(run("explain", "--strategy", plan, *words).stdout)
    for answer in values["answers"]:
        if answer["kind"] == "speed":
            assert answer["gain"] == pytest.approx(0.0, abs=1e-3 * answer["before"])


def test_ctrl_c_keeps_the_answers(run, plan, monkeypatch):
    from llmpq_jax.tasks import explain

    own_ask = explain.answer_scenarios

    def interrupted(*args, **options):
        yield next(own_ask(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "answer_scenarios", interrupted)
    result = run("explain", "--strategy", plan, "--json")
    assert result.exit_code == 0, result.output
    assert "interrupted: the answers so far are kept" in result.stderr
    assert len(json.loads(result.stdout)["answers"]) == 1


def test_a_strategy_without_its_request_needs_its_sources(
    fails, run, plan, cluster, measurements, tmp_path
):
    path = edited(plan, tmp_path, request=None)
    words = ["explain", "--strategy", path, "--without-solving"]
    missing = (
        "has no [request], which says what it was solved with: give --cluster FILE"
    )
    assert missing in fails(*words)
    words += ["--cluster", cluster]
    assert missing in fails(*words)
    assert run(*words, "--measurements", measurements).exit_code == 0


def test_a_source_that_no_longer_exists_is_named(fails, plan, tmp_path):
    asked = read_strategy(plan).request
    assert asked is not None
    sources = replace(asked.sources, cluster="gone.toml")
    path = edited(plan, tmp_path, request=replace(asked, sources=sources))
    line = fails("explain", "--strategy", path)
    assert "was solved with --cluster " in line
    assert "gone.toml, which does not exist: name the file with --cluster FILE" in line


def test_other_measurements_are_reported(run, plan, measurements, tmp_path):
    table = read_measurements(measurements)
    rows = (*table.kinds, *table.layers, *table.vocabulary_layers, *table.links)
    other = tmp_path / "other.toml"
    other.write_text(header_text(table) + "".join(map(row_text, rows)) + "\n# other\n")
    words = ("--measurements", other, "--without-solving")
    result = run("explain", "--strategy", plan, *words)
    assert result.exit_code == 0, result.output
    assert "the measurements are not those that the plan was made with" in result.stderr


def test_a_plan_that_does_not_fit_is_said_to(run, plan, cluster, tmp_path):
    devices = read_cluster(cluster)
    (node,) = devices.nodes
    small = tuple(replace(device, memory_bytes=4096) for device in node.devices)
    write_cluster(
        tmp_path / "small.toml", replace(devices, nodes=(replace(node, devices=small),))
    )
    result = run("explain", "--strategy", plan, "--cluster", tmp_path / "small.toml")
    assert result.exit_code == 0, result.output
    assert "fits         no: memory" in result.stdout
    assert " lacks " in result.stdout
    assert "no plan fits: `llmpq-jax solve` says" in result.stdout


def test_a_strategy_of_another_cluster_is_refused(fails, plan, tmp_path):
    strategy = read_strategy(plan)
    stages = (replace(strategy.stages[0], device="far/cpu:9"), *strategy.stages[1:])
    path = edited(plan, tmp_path, stages=stages)
    assert "has a stage on far/cpu:9: expected devices that the cluster has" in fails(
        "explain", "--strategy", path
    )


@pytest.mark.parametrize("option", ["--strategy", "--cluster", "--measurements"])
def test_files_that_are_none_are_named(fails, plan, tmp_path, option):
    bad = tmp_path / "bad.toml"
    bad.write_text("schema = 1\nnothing = true\n")
    words = {"--strategy": plan, option: bad}
    line = fails("explain", *(word for pair in words.items() for word in pair))
    assert "bad.toml" in line


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--more-speed", -1), "--more-speed"),
        (("--pin-layers", "0:1"), "expected FIRST:END=DEVICE"),
        (("--measurements", "m.toml", "--roofline"), "either --measurements FILE, "),
    ],
)
def test_options_that_make_no_sense_are_wrong_use(run, plan, words, complaint):
    result = run("explain", "--strategy", plan, *words)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def run_record(plan, tmp_path_factory):
    """What `generate --record` writes of that plan, and what it prints."""
    from click.testing import CliRunner

    from llmpq_jax.cli import main

    path = tmp_path_factory.mktemp("run") / "run.jsonl"
    words = ["generate", "--strategy", plan, "--prompt", "def f", "--ignore-eos"]
    result = CliRunner().invoke(main, [*map(str, words), "--record", str(path)])
    assert result.exit_code == 0, result.output
    return path, result.stdout


def test_a_run_is_compared_with_its_prediction(run, run_record, tmp_path):
    path, printed = run_record
    (deviation,) = [x for x in printed.splitlines() if x.startswith("deviation ")]
    picture, trace = tmp_path / "run.png", tmp_path / "run.json"
    result = run("explain", "--run", path, "--picture", picture, "--trace", trace)
    assert result.exit_code == 0, result.output
    assert "Predicted and actual, one row per stage and phase" in result.stdout
    assert deviation in result.stdout
    (memory,) = [x for x in printed.splitlines() if x.startswith("memory    ")]
    assert "by the compiler's analysis" in memory
    assert memory in result.stdout
    assert "Memory on each device: predicted → at its peak" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    processes = {event["pid"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert len(processes) == 2
    values = json.loads(run("explain", "--run", path, "--json").stdout)
    (batch,) = values["batches"]
    assert batch["replayed_decode_s"] > 0
    assert {phase["phase"] for phase in batch["phases"]} == {"prefill", "decode"}
    for stage in batch["memory"]:
        said, peak = stage["predicted"], stage["peak"]
        held = said["weights"] + said["embedding"] + said["head"]
        # Features that do not fill their last panel are padded.
        assert peak["weights"] == pytest.approx(held, rel=0.01)
        parts = ("weights", "kv_cache", "programs", "waiting")
        assert peak["peak_bytes"] == sum(peak[part] for part in parts)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "expected either --strategy FILE or --run FILE"),
        (("--strategy", "s.toml", "--run", "r.jsonl"), "expected either --strategy"),
        (("--strategy", "s.toml", "--picture", "p.png"), "expected --run FILE with"),
        (("--run", "r.jsonl", "--picture", "p.pdf"), "ends in .png or .svg"),
    ],
)
def test_a_run_or_a_strategy_is_explained(run, words, complaint):
    result = run("explain", *words)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


def test_a_file_that_is_no_run_record_is_named(fails, plan):
    assert f"run record {plan}, line 1" in fails("explain", "--run", plan)
