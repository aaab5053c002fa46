from __future__ import annotations

import pytest

from llmpq_jax.schema.measurements_file import read_measurements
from tests.cli.conftest import SIZES


def test_every_precision_and_phase_is_measured_and_tabled(
    run, model, cluster, tmp_path
):
    path = tmp_path / "measurements.toml"
    words = ("--model", model, "--cluster", cluster, "--out", path, *SIZES)
    result = run("profile", *words)
    assert result.exit_code == 0, result.output
    rows = read_measurements(path).layers
    assert {(row.phase, row.bits) for row in rows} == {
        (phase, bits) for phase in ("prefill", "decode") for bits in (4, 8, 16)
    }
    assert {row.batch for row in rows} == {1, 2}
    assert "One layer, median" in result.stdout
    assert f"written      {path}" in result.stdout
    first, *others = result.stderr.splitlines()
    assert first == "measuring …"
    # A busy machine is noticed.
    assert all("drifted while it was measured" in line for line in others)


def test_widths_are_numbers(run, model, cluster, tmp_path):
    files = ("--model", model, "--cluster", cluster, "--out", tmp_path / "m.toml")
    for wrong in ("0", "1,x", ""):
        result = run("profile", *files, "--tensor-widths", wrong)
        assert result.exit_code == 2
        line = " ".join(result.stderr.split())
        assert f"found {wrong!r}, expected numbers from 1 up" in line


def test_a_width_that_no_node_has_is_refused(fails, model, cluster, tmp_path):
    files = ("--model", model, "--cluster", cluster, "--out", tmp_path / "m.toml")
    line = fails("profile", *files, "--tensor-widths", "1,4")
    assert "tensor width 4: no kind to be measured has more than 2" in line


def test_predictions_are_compared_at_sizes_that_were_left_out(
    run, model, cluster, tmp_path
):
    path = tmp_path / "measurements.toml"
    words = ("--batch", 4, "--prompt-length", 20, "--new-tokens", 30)
    files = ("--model", model, "--cluster", cluster, "--out", path)
    result = run("profile", *files, *words)
    assert result.exit_code == 0, result.output
    measured = read_measurements(path)
    assert {row.batch for row in measured.layers if row.held_out} == {3}
    assert {(row.phase, row.bits) for row in measured.accuracy} == {
        (phase, bits) for phase in ("prefill", "decode") for bits in (4, 8, 16)
    }
    assert "One layer, predicted at sizes that were left out" in result.stdout


def test_quick_measures_less_and_full_both_caches(run, model, cluster, tmp_path):
    words = ("--model", model, "--cluster", cluster, "--batch", 2)
    short = ("--prompt-length", 10, "--new-tokens", 2)
    found = {}
    for effort in ("quick", "full"):
        out = tmp_path / f"{effort}.toml"
        result = run("profile", *words, *short, "--out", out, f"--{effort}")
        assert result.exit_code == 0, result.output
        found[effort] = read_measurements(out).layers
    assert {row.kv_bits for row in found["full"]} == {8, 16}
    assert {row.kv_bits for row in found["quick"]} == {16}


def test_emulated_devices_are_measured_in_float32(measurements):
    assert read_measurements(measurements).activations == "float32"


def test_a_file_is_filled_kind_by_kind(run, model, tmp_path):
    path, out = tmp_path / "cluster.toml", tmp_path / "measurements.toml"
    device = 'name = "cpu:0"\nplatform = "cpu"\nmemory = "1 GiB"'
    nodes = "".join(
        f'[[node]]\nname = "{kind}"\n[[node.device]]\nkind = "{kind}"\n{device}\n'
        for kind in ("slow", "fast")
    )
    path.write_text(f'name = "two machines"\n{nodes}')
    words = ("--model", model, "--cluster", path, "--out", out, "--batch", 1)
    words += ("--prompt-length", 8, "--new-tokens", 8)
    for number, kind in enumerate(("fast", "slow")):
        result = run("profile", *words, "--kind", kind, "--sample-time", 0.001)
        assert result.exit_code == 0, result.output
        kinds = [row.kind for row in read_measurements(out).kinds]
        assert kinds == ["fast", "slow"][: number + 1]
    rows = read_measurements(out).layers
    assert len({row.kind for row in rows}) == 2
    assert len([row for row in rows if row.kind == "slow"]) * 2 == len(rows)


def test_a_kind_that_is_not_in_the_cluster_is_one_line(fails, model, cluster, tmp_path):
    out = tmp_path / "measurements.toml"
    words = ("--model", model, "--cluster", cluster, "--out", out)
    assert "no devices of kind 'h100' to measure" in fails(
        "profile", *words, "--kind", "h100"
    )


def test_measurements_of_other_circumstances_are_kept(
    fails, model, cluster, measurements
):
    before = measurements.read_text()
    words = ("--model", model, "--cluster", cluster, "--out", measurements)
    line = fails("profile", *words, "--activations", "bfloat16")
    assert "activations: found 'float32', expected 'bfloat16'" in line
    assert measurements.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[node]", "is not TOML"),
        ('name = "x"\nnodes = 3', "node: missing, expected a value"),
        (
            'name = "x"\n[[node]]\nname = "n"\n[[node.device]]\nname = "cpu:0"\n'
            'kind = "cpu"\nplatform = "cpu"\nmemory = "lots"',
            "'lots' is not a size",
        ),
    ],
)
def test_a_file_that_is_no_cluster_is_one_line(fails, model, tmp_path, text, message):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    out = tmp_path / "measurements.toml"
    line = fails("profile", "--model", model, "--cluster", path, "--out", out)
    assert line.startswith(f"cluster {path}: ")
    assert message in line
    assert not out.exists()


def test_a_folder_that_is_no_checkpoint_is_one_line(fails, cluster, tmp_path):
    out = tmp_path / "measurements.toml"
    line = fails("profile", "--model", tmp_path, "--cluster", cluster, "--out", out)
    assert "config.json: cannot be read (No such file" in line


@pytest.mark.parametrize(
    "words", [("--batch", 0), ("--activations", "int8"), ("--group-size", 100)]
)
def test_options_out_of_range_are_wrong_use(run, model, cluster, tmp_path, words):
    out = ("--out", tmp_path / "m.toml")
    result = run("profile", "--model", model, "--cluster", cluster, *out, *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
