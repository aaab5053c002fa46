from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from tests.support.tiny_models import make_strategy


@pytest.fixture
def words(strategy, tmp_path):
    """A good command."""
    return ["quantize", "--strategy", strategy, "--out", tmp_path / "out"]


def _texts(result):
    return [row["text"] for row in json.loads(result.stdout)["results"]]


def test_the_written_strategy_continues_prompts_as_the_old_one(
    run, words, strategy, tmp_path
):
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "quantising …" in result.stderr
    assert re.search(r"^ +2 layers +8 +\S+ KiB +\S+ KiB$", result.stdout, re.MULTILINE)
    assert re.search(r"^ +1 layer +4 +\S+ KiB +\S+ KiB$", result.stdout, re.MULTILINE)
    assert re.search(r"^ +total +\S+ KiB +\S+ KiB$", result.stdout, re.MULTILINE)
    assert re.search(r"\d\d\.\d% of the weights' bytes", result.stdout)
    assert f"written      {tmp_path / 'out'}" in result.stdout
    new = tmp_path / "out" / "strategy.toml"
    assert f"strategy     {new}" in result.stdout
    prompts = ("--prompt", "def f", "--prompt", "class A", "--ignore-eos", "--json")
    before = run("generate", "--strategy", strategy, *prompts)
    after = run("generate", "--strategy", new, *prompts)
    assert after.exit_code == 0, after.output
    assert _texts(after) == _texts(before)


def test_json_is_for_programs(run, words, tmp_path):
    values = json.loads(run(*words, "--json").stdout)
    out = tmp_path / "out"
    assert values["out"] == str(out)
    assert values["strategy"] == str(out / "strategy.toml")
    assert values["fingerprint"] == model_fingerprint(out)
    assert [part["bits"] for part in values["parts"]] == [16, 16, 8, 4, 8, 16]
    for when in ("bytes_before", "bytes_after"):
        assert values[when] == sum(part[when] for part in values["parts"])
    assert values["bytes_after"] < values["bytes_before"]


def test_a_folder_that_is_there_is_replaced_only_on_demand(
    run, fails, words, strategy, tmp_path
):
    assert run(*words).exit_code == 0
    assert "/out: exists already: choose another folder or use --over" in fails(*words)
    (tmp_path / "out" / "old").write_text("old")
    assert run(*words, "--overwrite").exit_code == 0
    assert not (tmp_path / "out" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_in_the_way_is_refused(fails, words, tmp_path):
    (tmp_path / "out").write_text("text")
    assert "/out: cannot be written (Not a directory): name" in fails(
        *words, "--overwrite"
    )


def test_a_folder_of_others_is_not_replaced(fails, words, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("text")
    assert "/out: has no config.json: expected a folder" in fails(*words, "--overwrite")


def test_the_model_itself_is_not_replaced(fails, words, model):
    words[-1] = model
    strategy = words[words.index("--strategy") + 1]
    message = f"--out {model}: is {model} of --strategy {strategy}, which is read"
    assert message in fails(*words, "--overwrite")


def test_a_strategy_for_another_model_is_refused_and_nothing_written(
    fails, words, model, tmp_path
):
    strategy = make_strategy(model, [((0,), [8, 8, 8, 8])])
    other = replace(strategy.model, fingerprint="sha256:other")
    write_strategy(tmp_path / "s.toml", replace(strategy, model=other))
    words[2] = tmp_path / "s.toml"
    assert "the strategy is for the model sha256:other" in fails(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


def test_rounded_weights_that_are_missing_are_named(fails, words, model, tmp_path):
    strategy = make_strategy(model, [((0,), [8, 8, 8, 8])])
    precision = replace(strategy.precision, rounding="gptq")
    write_strategy(tmp_path / "s.toml", replace(strategy, precision=precision))
    words[2] = tmp_path / "s.toml"
    assert "rounded by 'gptq' and names no folder of them" in fails(*words)


def test_a_missing_strategy_is_one_line(fails, words, tmp_path):
    words[2] = tmp_path / "none"
    assert fails(*words).startswith(f"strategy {tmp_path / 'none'}: cannot be read")


def test_ctrl_c_leaves_nothing_behind(run, words, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    # The layers have been written by then.
    monkeypatch.setattr(WeightStore, "head", interrupted)
    result = run(*words)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "error: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_bits_that_a_quantised_checkpoint_lacks_are_refused(
    run, fails, words, tmp_path
):
    assert run(*words).exit_code == 0
    path = tmp_path / "out" / "strategy.toml"
    strategy = read_strategy(path)
    first, second = strategy.stages
    stages = (first, replace(second, bits=(8, 8)))
    write_strategy(tmp_path / "other.toml", replace(strategy, stages=stages))
    words[2], words[-1] = tmp_path / "other.toml", tmp_path / "again"
    line = fails(*words)
    assert "layers.2.self_attn.q_proj holds integers of 4 bits" in line
    assert "the plan asks for 8: expected 4 or 16" in line
