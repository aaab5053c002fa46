from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax import __version__
from llmpq_jax.schema.cluster import KindFigures
from llmpq_jax.schema.measurements_file import header_text, read_measurements, row_text
from llmpq_jax.schema.record_files import (
    read_cluster,
    read_strategy,
    write_cluster,
    write_sensitivity,
    write_strategy,
)
from llmpq_jax.schema.solve_request import (
    BitsPin,
    LayerPin,
    PlannerChoices,
    QualityLimits,
    SearchLimits,
    SolveRequest,
    Sources,
)
from llmpq_jax.sensitivity.weight_variance import weight_variance
from tests.cli.conftest import SIZES
from tests.support.tiny_models import make_strategy, write_tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def words(model, cluster, measurements, tmp_path):
    """A good command; its strategy goes to `tmp_path / "plan.toml"`."""
    return [
        *("solve", "--model", model, "--cluster", cluster),
        *("--measurements", measurements, *SIZES, "--out", tmp_path / "plan.toml"),
    ]


def _without(words, option):
    index = words.index(option)
    return words[:index] + words[index + 2 :]


def test_requests_at_random_have_a_plan_that_says_how_long_they_wait(
    run, words, tmp_path
):
    lengths = tmp_path / "lengths.json"
    lengths.write_text(json.dumps({"pairs": [[5, 3], [20, 8], [12, 6]]}))
    for option in ("--batch", "--prompt-length", "--new-tokens"):
        words = _without(words, option)
    result = run(
        *words,
        *("--arrivals", 2, "--lengths", lengths, "--percentile", 90),
        *("--max-ttft", 20, "--max-tpot", 5),
    )
    assert result.exit_code == 0, result.output
    (line,) = [
        line for line in result.stdout.splitlines() if line.startswith("online ")
    ]
    assert "90 % of requests at 2/s: first token within" in line
    assert "slots in groups of" in result.stderr
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.online is not None
    assert (plan.online.arrivals_per_s, plan.online.percentile) == (2.0, 90.0)
    assert 0 < plan.online.ttft_s <= 20
    assert 0 < plan.online.tpot_s <= 5
    assert plan.workload.context_length == 28
    assert plan.request is not None
    assert plan.request.online is not None
    assert plan.request.online.lengths == str(lengths)
    assert plan.request.online.max_ttft_s == 20
    explained = run("explain", "--strategy", tmp_path / "plan.toml")
    assert explained.exit_code == 0, explained.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-ttft", 1], "--max-ttft alone: expected --arrivals RATE and --lengths"),
        (["--arrivals", 1], "--arrivals alone: expected --arrivals RATE and --lengths"),
        (
            ["--arrivals", 1, "--lengths", "FILE"],
            "--lengths says how long prompts and replies are: expected no --prompt-length",
        ),
        (
            ["--arrivals", 1, "--lengths", "FILE", "-", "--theta", 1],
            "--theta with --arrivals",
        ),
        (
            ["--arrivals", 1, "--lengths", "FILE", "-", "--prefill-micro-batch", 2],
            "--prefill-micro-batch 2 with --arrivals: expected 1",
        ),
        (["--arrivals", 0, "--lengths", "FILE", "-"], "0.0 is not in the range x>0"),
        (
            ["--arrivals", 1e-9, "--lengths", "FILE", "-"],
            "--arrivals 1e-09: expected 1e-05 to 1e+06 requests/s",
        ),
        (
            ["--arrivals", "nan", "--lengths", "FILE", "-"],
            "--arrivals nan: expected 1e-05",
        ),
        (
            ["--arrivals", 1, "--lengths", "FILE", "-", "--max-tpot", "1e9"],
            "--max-tpot 1e+09: expected 1e-06 to 1e+06 s",
        ),
    ],
)
def test_options_of_requests_at_random_that_contradict_are_wrong_use(
    run, words, tmp_path, options, message
):
    lengths = tmp_path / "lengths.json"
    lengths.write_text("[[5, 3]]")
    if "-" in options:
        options = [each for each in options if each != "-"]
        for option in ("--batch", "--prompt-length", "--new-tokens"):
            words = _without(words, option)
    result = run(*words, *(lengths if each == "FILE" else each for each in options))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "plan.toml").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{}", "has no list of pairs"),
        ('{"pairs": []}', "has no list of pairs"),
        ("[[1, 2], [3]]", "pair 2 is [3]: expected two whole numbers"),
        ("[[1, true]]", "pair 1 is [1, True]: expected two whole numbers"),
        ("[[0, 3]]", "pair 1 is [0, 3]"),
        ("[[1, 1e3]]", "pair 1 is [1, 1000.0]"),
        (f"[[1, {10**30}]]", "pair 1 is [1, 1000000000"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_files_of_lengths_that_are_none_are_one_line(
    fails, words, tmp_path, content, message
):
    lengths = tmp_path / "lengths.json"
    lengths.write_text(content)
    for option in ("--batch", "--prompt-length", "--new-tokens"):
        words = _without(words, option)
    line = fails(*words, "--arrivals", 1, "--lengths", lengths)
    assert line.startswith(f"lengths {lengths}: ")
    assert message in line


def test_a_plan_is_written_explained_and_served(run, words, measurements, tmp_path):
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "estimating it from the variance of the weights" in result.stderr
    assert "The plan: one row per stage" in result.stdout
    assert "% of uniform int8's" in result.stdout
    assert "certificate  proven" in result.stdout
    assert f"written      {tmp_path / 'plan.toml'}" in result.stdout
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.quality is not None
    assert plan.quality.method == "weight-variance"
    provenance = plan.provenance
    assert provenance is not None
    assert provenance.program == f"llmpq-jax {__version__}"
    assert provenance.command == " ".join(["llmpq-jax", *map(str, words)])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", provenance.date)
    assert provenance.cluster == "pair"
    digest = hashlib.sha256(measurements.read_bytes()).hexdigest()
    assert provenance.measurements == f"sha256:{digest}"
    served = run(
        *("generate", "--strategy", tmp_path / "plan.toml", "--prompt", "def f"),
        *("--json", "--ignore-eos"),
    )
    assert served.exit_code == 0, served.output
    values = json.loads(served.stdout)
    assert values["results"][0]["num_new_tokens"] == 8
    assert plan.predicted is not None
    assert values["predicted"]["latency_s"] == plan.predicted.latency_s


def test_json_holds_the_strategy_as_its_file_does(run, words, tmp_path):
    values = json.loads(run(*words, "--json").stdout)
    plan = read_strategy(tmp_path / "plan.toml")
    assert [tuple(stage["bits"]) for stage in values["strategy"]["stage"]] == [
        stage.bits for stage in plan.stages
    ]
    used = {name for stage in plan.stages for name in stage.devices}
    assert set(values["idle"]) == {"node0/cpu:0", "node0/cpu:1"} - used
    assert plan.quality is not None
    assert plan.quality.omega <= values["omega_of_uniform_int8"] * (1 + 1e-9)
    assert values["out"] == str(tmp_path / "plan.toml")


def test_options_bound_the_plan(run, words, tmp_path):
    result = run(
        *words,
        *("--bits", "16,8", "--head-bits", 8, "--theta", 2.0, "--time-limit", 30),
        *("--prefill-micro-batch", 1, "--decode-micro-batch", 2, "--gap", 0.01),
    )
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    assert min(plan.bits) >= 8
    assert plan.precision.head_bits == 8
    assert (plan.micro_batch.prefill, plan.micro_batch.decode) == (1, 2)


def test_a_budget_is_kept(run, words, model, tmp_path):
    sensitivity = weight_variance(model)
    budget = 0.5 * sum(sensitivity.omega(layer, 8) for layer in range(4))
    assert run(*words, "--omega-budget", budget).exit_code == 0
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.quality is not None
    assert plan.quality.omega <= budget * (1 + 1e-9)
    assert sum(bits == 16 for bits in plan.bits) >= 2


def test_sensitivities_of_a_file_are_taken(run, words, model, tmp_path):
    path = tmp_path / "sensitivity.toml"
    write_sensitivity(path, replace(weight_variance(model), method="by hand"))
    result = run(*words, "--sensitivity", path)
    assert "variance of the weights" not in result.stderr
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.quality is not None
    assert plan.quality.method == "by hand"


def test_idle_devices_are_named(run, words, cluster, tmp_path):
    devices = read_cluster(cluster)
    (node,) = devices.nodes
    first, second = node.devices
    node = replace(node, devices=(first, replace(second, use="never")))
    write_cluster(tmp_path / "one.toml", replace(devices, nodes=(node,)))
    words[words.index("--cluster") + 1] = tmp_path / "one.toml"
    result = run(*words)
    assert "idle         node0/cpu:1" in result.stdout


def test_what_is_short_is_said_and_nothing_written(fails, words, cluster, tmp_path):
    devices = read_cluster(cluster)
    (node,) = devices.nodes
    small = tuple(replace(device, memory_bytes=4096) for device in node.devices)
    nodes = (replace(node, devices=small),)
    write_cluster(tmp_path / "small.toml", replace(devices, nodes=nodes))
    words[words.index("--cluster") + 1] = tmp_path / "small.toml"
    line = fails(*words)
    assert "no plan fits: node0/cpu:" in line
    assert "is short by" in line
    assert not (tmp_path / "plan.toml").exists()


def test_measurements_of_another_model_are_refused(fails, words, tmp_path):
    other = write_tiny_model(tmp_path / "other", hidden_size=32)
    words[words.index("--model") + 1] = other
    assert "expected sha256:" in fails(*words)


def test_sensitivities_of_another_model_are_refused(fails, words, model, tmp_path):
    path = tmp_path / "sensitivity.toml"
    sensitivity = replace(weight_variance(model), fingerprint="sha256:other")
    write_sensitivity(path, sensitivity)
    assert "fingerprint sha256:other, expected sha256:" in fails(
        *words, "--sensitivity", path
    )


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("--cluster", "cluster"),
        ("--measurements", "measurements"),
        ("--sensitivity", "sensitivity"),
    ],
)
def test_a_missing_file_is_one_line(fails, words, tmp_path, option, what):
    missing = tmp_path / "none"
    words = _without(words, option) if option in words else words
    line = fails(*words, option, missing)
    assert line.startswith(f"{what} {missing}")
    assert "cannot be read" in line


def test_measurements_that_are_no_toml_are_one_line(fails, words, tmp_path):
    path = tmp_path / "measurements.toml"
    path.write_text("model = 3 3\n")
    line = fails(*_without(words, "--measurements"), "--measurements", path)
    assert line.startswith(f"measurements {path}: is not TOML")


def test_measurements_fix_activations_and_groups(run, words, measurements, tmp_path):
    run(*words)
    measured = read_measurements(measurements)
    precision = read_strategy(tmp_path / "plan.toml").precision
    assert precision.activations == measured.activations
    assert precision.group_size == measured.group_size


def test_groups_that_no_kernel_has_are_refused(fails, words, measurements, tmp_path):
    path = tmp_path / "measurements.toml"
    text = measurements.read_text()
    path.write_text(text.replace("group_size = 128", "group_size = 100"))
    line = fails(*_without(words, "--measurements"), "--measurements", path)
    assert "group_size is 100: expected one of [32, 64, 128]" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prefill-micro-batch", 3), "prefill is pinned to 3 rows: expected 1 to 2"),
        (("--bits", "16,3"), "'3', expected some of 32, 16, 8, 4 with commas between"),
        (("--theta", -1), "-1.0 is not in the range x>=0"),
        (("--theta", "nan"), "theta is nan: expected a finite number"),
        (("--time-limit", 0), "0.0 is not in the range x>0"),
        (("--batch", "two"), "'two' is not a valid integer"),
        (
            ("--wire-bits", 8, "--validation-text", "text", "--max-kl", 0.1),
            "--wire-bits 8 with --validation-text, which measures weights and cache alone",
        ),
        (("--pin-layers", "0-2=x"), "'0-2=x': expected FIRST:END=DEVICE, such as"),
        (("--pin-layers", "0:2=x"), "expected one of node0/cpu:0, node0/cpu:1"),
        (("--pin-bits", "0:2"), "'0:2': expected FIRST:END=BITS, such as 0:2=16"),
        (("--pin-bits", "0:2=7"), "found 7 bits, expected one of [4, 8, 16, 32]"),
        (("--pin-bits", "3:9=8"), "within 0:4, the model's layers"),
        (("--use", "cpu:0"), "device 'cpu:0' is not in the cluster: expected one of"),
        (
            ("--use", "node0/cpu:0", "--leave-idle", "node0/cpu:0"),
            "--use node0/cpu:0 and --leave-idle node0/cpu:0: expected one or",
        ),
    ],
)
def test_options_out_of_range_are_wrong_use(run, words, options, message):
    result = run(*words, *options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("option", ["--batch", "--out", "--model"])
def test_what_a_plan_needs_must_be_said(run, words, option):
    result = run(*_without(words, option))
    assert result.exit_code == 2
    assert f"Missing option '{option}'" in result.stderr


def test_a_config_alone_is_planned_from_makers_figures(run, tmp_path):
    folder = ROOT / "strategies"
    result = run(
        *("solve", "--model", folder / "models" / "opt-13b", "--roofline", *SIZES),
        *("--cluster", folder / "paper-02" / "cluster.toml"),
        *("--out", tmp_path / "plan.toml"),
    )
    assert result.exit_code == 0, result.output
    assert "not measured" in result.stderr
    assert "all layers count as equally sensitive" in result.stderr
    assert "no device was measured" in result.stdout
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.predicted is not None
    assert plan.predicted.source == "roofline"
    assert plan.provenance is not None
    assert plan.provenance.measurements.startswith("roofline of catalogue sha256:")
    assert plan.model.fingerprint.startswith("config-sha256:")


def test_figures_of_the_cluster_file_take_precedence_and_are_named(run, tmp_path):
    folder = ROOT / "strategies"
    room = read_cluster(folder / "paper-02" / "cluster.toml")
    (name,) = {own.device.kind for own in room.node_devices}

    def planned(**figures):
        path = tmp_path / "cluster.toml"
        kinds = (KindFigures(name=name, **figures),) if figures else ()
        write_cluster(path, replace(room, kinds=kinds))
        result = run(
            *("solve", "--model", folder / "models" / "opt-13b", "--roofline", *SIZES),
            *("--cluster", path, "--out", tmp_path / "plan.toml"),
        )
        assert result.exit_code == 0, result.output
        return result, read_strategy(tmp_path / "plan.toml")

    _, before = planned()
    result, after = planned(flops=1e15, bandwidth_bytes_per_s=2 * 1555e9, source="me")
    assert f"not from the catalogue: {name} 1e+15 FLOP/s" in result.stderr
    assert before.predicted is not None
    assert after.predicted is not None
    assert after.predicted.latency_s < 0.6 * before.predicted.latency_s
    assert before.provenance is not None
    assert after.provenance is not None
    assert before.provenance.measurements.startswith("roofline of catalogue sha256:")
    assert "roofline of catalogue and cluster file" in after.provenance.measurements


def test_more_loss_is_shown_with_what_it_brings(run, words):
    lines = run(*words).stdout.splitlines()
    rows = [line.split() for line in lines]
    start = next(n for n, row in enumerate(rows) if row[:3] == ["Plans", "of", "less"])
    table = [row for row in rows[start + 3 :] if row and "at" in row]
    assert 2 <= len(table) <= 4
    assert sum(row[:2] == ["this", "plan"] for row in table) == 1
    losses = [float(row[-4 if row[-2] in {"s", "ms", "µs"} else -3]) for row in table]
    assert losses == sorted(losses)


def test_without_time_nothing_more_is_planned(run, words):
    assert "Plans of less and of more" not in run(*words, "--time-limit", 1e-6).stdout


def test_pins_are_kept(run, words, tmp_path):
    result = run(
        *words,
        *("--pin-layers", "1:3=node0/cpu:1", "--pin-bits", "0:1=16"),
        *("--pin-bits", "3:4=4", "--use", "node0/cpu:0"),
    )
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    assert {name for stage in plan.stages for name in stage.devices} == {
        "node0/cpu:0",
        "node0/cpu:1",
    }
    (stage,) = [stage for stage in plan.stages if stage.device == "node0/cpu:1"]
    assert stage.layers[0] <= 1
    assert stage.layers[1] >= 3
    assert (plan.bits[0], plan.bits[3]) == (16, 4)
    result = run(*words, "--leave-idle", "node0/cpu:0")
    assert "idle         node0/cpu:0" in result.stdout


def test_how_hidden_states_are_sent_may_be_left_to_the_planner(run, words, tmp_path):
    apart = ("--pin-layers", "0:2=node0/cpu:0", "--pin-layers", "2:4=node0/cpu:1")
    result = run(*words, *apart, "--wire-bits", "any")
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.certificate is not None
    assert "each hop at 8 or 16 bits" in plan.certificate.covers
    assert run(*words, *apart, "--wire-bits", "8").exit_code == 0
    plan = read_strategy(tmp_path / "plan.toml")
    assert [stage.wire_bits for stage in plan.stages] == [8, 16]
    assert plan.quality is not None
    assert "omega counts hops at 8 bits as 0" in (plan.quality.note or "")


def test_a_stage_over_two_devices_is_planned_written_and_served(
    run, words, measurements, tmp_path
):
    measured = read_measurements(measurements)
    path = tmp_path / "wide.toml"
    # So slow on one device that no noise of the ends decides.
    alone = [replace(row, seconds=1000 * row.seconds) for row in measured.layers]
    rows = [
        *(*measured.kinds, *alone, *measured.vocabulary_layers, *measured.links),
        *(replace(row, tensor=2) for row in measured.layers),
    ]
    path.write_text(header_text(measured) + "".join(map(row_text, rows)))
    words[words.index("--measurements") + 1] = path
    result = run(*words, "--tensor", "any")
    assert result.exit_code == 0, result.output
    (stage,) = read_strategy(tmp_path / "plan.toml").stages
    assert stage.mesh is not None
    assert stage.mesh.devices == ("node0/cpu:0", "node0/cpu:1")
    served = run("generate", "--strategy", tmp_path / "plan.toml", "--prompt", "def f")
    assert served.exit_code == 0, served.output


def test_stages_may_be_spread_over_devices_of_a_node(run, tmp_path):
    folder = ROOT / "strategies"
    result = run(
        *("solve", "--model", folder / "models" / "opt-66b", "--roofline", *SIZES),
        *("--cluster", folder / "paper-10" / "cluster.toml", "--gap", 0.01),
        *("--tensor", "any", "--out", tmp_path / "plan.toml"),
    )
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.certificate is not None
    assert "stages over 1 or 2 or 4 equal devices" in plan.certificate.covers
    assert any(stage.mesh is not None for stage in plan.stages)
    assert "v100-32/cuda:0 + v100-32/cuda:1" in result.stdout


def test_measurements_and_figures_exclude_each_other(run, words):
    result = run(*words, "--roofline")
    assert result.exit_code == 2
    assert (
        "give either --measurements FILE, which `llmpq-jax profile` writes, or --roofline"
        in result.stderr
    )
    assert run(*_without(words, "--measurements")).exit_code == 2


def _quantised(run, model, tmp_path, bits):
    """Writes the model with its layers at these bits; returns the folder."""
    strategy = make_strategy(model, [((0,), bits)])
    write_strategy(tmp_path / "before.toml", strategy)
    out = tmp_path / "quantised"
    words = ("quantize", "--strategy", tmp_path / "before.toml", "--out", out)
    assert run(*words).exit_code == 0
    return out


def test_a_quantised_checkpoint_is_planned_for_at_bits_it_has(
    run, words, model, tmp_path
):
    out = _quantised(run, model, tmp_path, [4, 16, 4, 4])
    words[words.index("--model") + 1] = out
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert set(read_strategy(tmp_path / "plan.toml").bits) <= {4, 16}
    served = run("generate", "--strategy", tmp_path / "plan.toml", "--prompt", "def f")
    assert served.exit_code == 0, served.output


def test_layers_of_unlike_bits_are_planned_at_their_own(run, words, model, tmp_path):
    out = _quantised(run, model, tmp_path, [4, 8, 4, 16])
    words[words.index("--model") + 1] = out
    result = run(*words)
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    can_have = [{16, 4}, {16, 8}, {16, 4}, {16}]
    assert all(b in own for b, own in zip(plan.bits, can_have, strict=True))
    assert "keeps 7 matrices unquantised" in result.output


def test_a_layer_without_any_of_the_bits_is_named(run, fails, words, model, tmp_path):
    out = _quantised(run, model, tmp_path, [4, 8, 4, 4])
    words[words.index("--model") + 1] = out
    line = fails(*words, "--pin-bits", "1:2=4")
    assert not (tmp_path / "plan.toml").exists()
    assert "layers 1:2 at 4 bits" in line


def test_the_caches_precision_may_be_left_to_the_planner(
    run, words, measurements, tmp_path
):
    measured = read_measurements(measurements)
    path = tmp_path / "both.toml"
    rows = [replace(row, kv_bits=8) for row in measured.layers]
    text = "".join(row_text(row) for row in rows)
    path.write_text(measurements.read_text() + text)
    words[words.index("--measurements") + 1] = path
    result = run(*words, "--kv-bits", "any")
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.certificate is not None
    assert "cache at 8 or 16 bits" in plan.certificate.covers


def test_the_heads_precision_may_be_left_to_the_planner(run, words, tmp_path):
    result = run(*words, "--head-bits", "any", "--theta", "1e9")
    assert result.exit_code == 0, result.output
    plan = read_strategy(tmp_path / "plan.toml")
    assert plan.certificate is not None
    assert "head at 8 or 16 bits" in plan.certificate.covers
    assert "cache at 16 bits" in plan.certificate.covers
    assert set(plan.bits) == {16}


def test_prompts_say_what_to_plan_for(run, words, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "abcdef", "max_new_tokens": 4}, {"prompt": "x"}, {"prompt": "y"}]
    prompts.write_text("\n".join(map(json.dumps, rows)))
    words = _without(words, "--prompt-length")
    result = run(*words, "--prompts", prompts, "--output-length-fraction", 0.5)
    assert result.exit_code == 0, result.output
    assert "workload     3 prompts, 2 at a time" in result.stdout
    found = read_strategy(tmp_path / "plan.toml").workload
    assert found.lengths == ((16, 8, 2), (16, 4, 1))
    assert (found.batch, found.longest_context) == (2, 10)
    assert found.output_length_fraction == 0.5


def test_prompts_and_a_length_do_not_go_together(run, words):
    result = run(*words, "--prompts", "prompts.jsonl")
    assert result.exit_code == 2
    assert "expected no --prompt-length with it" in result.stderr


def test_a_missing_size_is_named(run, words):
    words = _without(_without(words, "--new-tokens"), "--prompt-length")
    result = run(*words)
    assert result.exit_code == 2
    expected = "Missing options '--prompt-length', '--new-tokens': expected --batch"
    assert expected in " ".join(result.stderr.split())


def test_a_strategy_keeps_what_was_asked_for(run, words, tmp_path):
    result = run(
        *words,
        *("--bits", "16,8", "--head-bits", "any", "--wire-bits", "8", "--theta", 0.5),
        *("--pin-layers", "1:3=node0/cpu:1", "--pin-bits", "0:1=16"),
        *("--pin-bits", "3:4=8", "--decode-micro-batch", 1, "--use", "node0/cpu:0"),
        *("--omega-budget", 9, "--time-limit", 30, "--gap", 0.01),
    )
    assert result.exit_code == 0, result.output
    named = dict(itertools.pairwise(words))
    request = read_strategy(tmp_path / "plan.toml").request
    assert request == SolveRequest(
        sources=Sources(
            cluster=str(named["--cluster"]), measurements=str(named["--measurements"])
        ),
        choices=PlannerChoices(
            bits=(16, 8),
            head_bits=(16, 8),
            wire_bits=(8,),
            decode_micro_batch=1,
            pin_layers=(LayerPin(first=1, end=3, device="node0/cpu:1"),),
            pin_bits=(
                BitsPin(first=0, end=1, bits=16),
                BitsPin(first=3, end=4, bits=8),
            ),
            use=("node0/cpu:0",),
        ),
        quality=QualityLimits(omega_budget=9.0, theta=0.5),
        search=SearchLimits(time_limit_s=30.0, gap=0.01),
    )
