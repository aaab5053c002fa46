from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmpq_jax.runtime import Pipeline, Sampling
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from tests.support.tiny_models import make_strategy


@pytest.fixture(scope="module")
def expected(strategy) -> list[str]:
    """What the Python interface says to the prompts used here."""
    with Pipeline.load(strategy) as pipeline:
        completions = pipeline.generate(["def f", "class A"], ignores_eos=True)
    return [completion.text for completion in completions]


def test_prompts_are_continued_and_the_run_is_tabled(run, strategy, expected):
    result = run(
        *("generate", "--strategy", strategy, "--ignore-eos"),
        *("--prompt", "def f", "--prompt", "class A"),
    )
    assert result.exit_code == 0, result.output
    assert "── prompt-2: 8 new tokens, ended by length" in result.stdout
    assert "  def f" in result.stdout
    assert re.search(r"node0/cpu:0 +0–1 +16 8 ", result.stdout)
    assert "16 new tokens of 2 prompts in" in result.stdout
    assert "loading …" in result.stderr


def test_json_is_for_programs(run, strategy, expected):
    result = run(
        *("generate", "--strategy", strategy, "--ignore-eos", "--json"),
        *("--prompt", "def f", "--prompt", "class A"),
    )
    values = json.loads(result.stdout)
    assert [row["text"] for row in values["results"]] == expected
    assert values["batches"][0]["num_new_tokens"] == 16
    assert [stage["stage"] for stage in values["batches"][0]["stages"]] == [0, 1]
    assert values["predicted"] is None


def test_a_file_of_prompts_becomes_a_file_of_results(run, strategy, expected, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    lines = [
        {"custom_id": "f", "prompt": "def f"},
        {"custom_id": "a", "prompt": "class A"},
        {"custom_id": "short", "prompt": "class A", "max_tokens": 3},
        *({"prompt": f"number {number}"} for number in range(3)),
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    paths = {
        option: tmp_path / name
        for option, name in {
            "--out": "results.jsonl",
            "--record": "run.jsonl",
            "--trace": "trace.json",
            "--timeline": "timeline.png",
        }.items()
    }
    result = run(
        *("generate", "--strategy", strategy, "--prompts", prompts, "--ignore-eos"),
        *(word for pair in paths.items() for word in pair),
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in paths["--out"].read_text().splitlines()]
    ids = ["f", "a", "short", "line-4", "line-5", "line-6"]
    rows.sort(key=lambda row: ids.index(row["custom_id"]))
    assert [row["custom_id"] for row in rows] == ids
    assert [row["text"] for row in rows[:2]] == expected
    assert rows[2]["num_new_tokens"] == 3
    record = [json.loads(line) for line in paths["--record"].read_text().splitlines()]
    assert record[0]["command"].startswith("llmpq-jax generate --strategy ")
    assert sum(row["record"] == "batch" for row in record) == 1
    assert json.loads(paths["--trace"].read_text())["traceEvents"]
    assert paths["--timeline"].read_bytes().startswith(b"\x89PNG")
    for path in paths.values():
        assert str(path) in result.stdout


def test_options_choose_how_tokens_are_drawn(run, strategy):
    with Pipeline.load(strategy) as pipeline:
        (wanted,) = pipeline.generate(
            ["def f"],
            max_new_tokens=5,
            sampling=Sampling(temperature=0.9, top_k=40, top_p=0.9, seed=3),
            stop=["q"],
        )
    result = run(
        *("generate", "--strategy", strategy, "--json", "--prompt", "def f"),
        *("--max-new-tokens", 5, "--temperature", 0.9, "--top-k", 40),
        *("--top-p", 0.9, "--seed", 3, "--stop", "q"),
    )
    (row,) = json.loads(result.stdout)["results"]
    assert (row["text"], row["finish_reason"]) == (wanted.text, wanted.finish_reason)


def test_a_model_of_no_numbers_makes_errors_and_no_results(run, model, tmp_path):
    spoilt = tmp_path / "model"
    shutil.copytree(model, spoilt)
    weights = load_file(spoilt / "model.safetensors")
    down = "model.layers.1.mlp.down_proj.weight"
    weights[down] = weights[down] * np.nan
    save_file(weights, spoilt / "model.safetensors")
    plan = tmp_path / "strategy.toml"
    write_strategy(plan, make_strategy(spoilt, [((0,), [16] * 4)]))
    prompts = tmp_path / "prompts.jsonl"
    body = {"prompt": [5, 6], "max_tokens": 3, "logprobs": 2, "n": 2}
    lines = [
        {"custom_id": "openai", "url": "/v1/completions", "body": body},
        {"custom_id": "plain", "prompt": "a"},
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    out = tmp_path / "results.jsonl"
    words = ("generate", "--strategy", plan, "--prompts", prompts, "--out", out)
    result = run(*words, "--weights-cache", "none")
    assert result.exit_code == 1
    reason = "layer 1 on node0/cpu:0 is the first part whose results are not finite"
    assert reason in result.stderr.splitlines()[-1]
    assert "(and 1 more line" in result.stderr.splitlines()[-1]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["custom_id"] for row in rows} == {"openai", "plain"}
    for row in rows:
        assert row["response"] is None
        assert row["error"]["code"] == "server_error"
        assert reason in row["error"]["message"]
    assert run(*words, "--resume").exit_code == 1


def test_chat_goes_through_the_template(run, fails, strategy, tmp_path):
    prompt = ("--prompt", "hi", "--max-new-tokens", 2)
    line = fails("generate", "--strategy", strategy, "--chat", *prompt)
    assert line.startswith("prompt 1: tokenizer ")
    assert "has no chat template" in line
    plan = read_strategy(strategy)
    folder = tmp_path / "chat"
    folder.mkdir()
    for file in Path(plan.model.path).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    path = tmp_path / "chat.toml"
    write_strategy(path, replace(plan, model=replace(plan.model, path=str(folder))))
    result = run("generate", "--strategy", path, "--chat", "--json", *prompt)
    (row,) = json.loads(result.stdout)["results"]
    assert row["num_prompt_tokens"] == len("[user] hi")


def test_an_existing_results_file_is_refused_before_anything_is_loaded(
    run, fails, strategy, tmp_path
):
    out = tmp_path / "results.jsonl"
    out.write_text("precious")
    words = ("generate", "--strategy", strategy, "--prompt", "a", "--out", out)
    assert "is there already: name another file, or say --resume" in fails(*words)
    assert out.read_text() == "precious"
    assert run(*words, "--overwrite", "--max-new-tokens", 1).exit_code == 0
    assert json.loads(out.read_text())["prompt"] == "a"


def test_bad_lines_become_errors_and_stop_nothing(run, strategy, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    conversation = {
        "custom_id": "chat",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "hi"}]},
    }
    completion = {
        "custom_id": "text",
        "url": "/v1/completions",
        "body": {"prompt": "def f", "max_tokens": 2, "model": "tiny"},
    }
    lines = [
        {"prompt": "a", "stopp": "x"},
        completion,
        {"prompt": "a" * 17},
        {"prompt": "a", "max_tokens": 400},
        conversation,
        {"prompt": "def f", "max_tokens": 2, "custom_id": "plain"},
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    out = tmp_path / "results.jsonl"
    words = ("generate", "--strategy", strategy, "--prompts", prompts, "--ignore-eos")
    result = run(*words, "--out", out)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: prompts {prompts} line 1: stopp: unknown key; expected one of prompt, "
        "custom_id, max_new_tokens, max_tokens, temperature, top_k, top_p, min_p, "
        "presence_penalty, frequency_penalty, repetition_penalty, logit_bias, "
        "ignore_eos, seed, stop "
        f"(and 3 more lines: {out} says what of each)"
    )
    assert "4 new tokens of 2 prompts in" in result.stdout
    rows = {
        row["custom_id"]: row for row in map(json.loads, out.read_text().splitlines())
    }
    assert set(rows) == {"line-1", "text", "line-3", "line-4", "chat", "plain"}
    for name, line, reason in (
        ("line-1", 1, "stopp: unknown key"),
        ("line-3", 3, "the prompt has 17 tokens"),
        ("line-4", 4, "400 new ones are requested"),
        ("chat", 5, "has no chat template"),
    ):
        assert reason in rows[name]["error"]["message"]
        assert rows[name]["error"]["line"] == line
    (choice,) = rows["text"]["response"]["body"]["choices"]
    assert choice["text"] == rows["plain"]["text"]
    shown = run(*words)
    assert shown.exit_code == 1
    assert f"── line-3: prompts {prompts} line 3: the prompt has 17" in shown.stdout
    assert "── plain: 2 new tokens" in shown.stdout


def test_each_choice_of_each_prompt_is_drawn_as_on_a_line_of_its_own(
    run, strategy, tmp_path
):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    asked = {"temperature": 1.5, "max_tokens": 4, "logprobs": 1}
    texts, seeds = ["def f", "class A"], [7, 8, 9]
    several = {
        "custom_id": "all",
        "url": "/v1/completions",
        "body": {**asked, "prompt": texts, "n": len(seeds), "seed": seeds[0]},
    }
    alone = [
        {
            "custom_id": f"{text} {seed}",
            "url": "/v1/completions",
            "body": {**asked, "prompt": text, "seed": seed},
        }
        for text in texts
        for seed in seeds
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in (several, *alone)))
    words = ("generate", "--strategy", strategy, "--prompts", prompts, "--out", out)
    assert run(*words, "--ignore-eos").exit_code == 0
    bodies = {
        row["custom_id"]: row["response"]["body"]
        for row in map(json.loads, out.read_text().splitlines())
    }
    assert len(bodies) == 1 + len(alone)
    choices = {name: body["choices"] for name, body in bodies.items()}
    together = choices["all"]
    assert len(together) == len(alone)
    # Each prompt is counted once.
    counts = [bodies[f"{text} 7"]["usage"]["prompt_tokens"] for text in texts]
    assert bodies["all"]["usage"]["prompt_tokens"] == sum(counts)
    assert bodies["all"]["usage"]["completion_tokens"] == 4 * len(alone)
    for number, choice in enumerate(together):
        (one,) = choices[str(alone[number]["custom_id"])]
        assert choice.keys() == one.keys()
        assert (choice["index"], one["index"]) == (number, 0)
        assert choice["text"] == one["text"]
        assert choice["finish_reason"] == one["finish_reason"]
        found, expected = choice["logprobs"], one["logprobs"]
        assert found.keys() == expected.keys()
        assert found["tokens"] == expected["tokens"]
        assert found["text_offset"] == expected["text_offset"]
        # Beside other rows float32 may be summed in another order: the last digit differs.
        assert found["token_logprobs"] == pytest.approx(
            expected["token_logprobs"], abs=1e-5
        )
        for top_tokens, others in zip(
            found["top_logprobs"], expected["top_logprobs"], strict=True
        ):
            assert top_tokens == pytest.approx(others, abs=1e-5)
    assert len({choice["text"] for choice in together}) > 1
    assert len(together[0]["logprobs"]["token_logprobs"]) == 4


def test_where_no_line_is_good_nothing_is_loaded(fails, strategy, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"promt": "a"}\n\n{}\n')
    out = tmp_path / "results.jsonl"
    words = ("generate", "--strategy", strategy, "--prompts", prompts, "--out", out)
    line = fails(*words)
    assert line.startswith(f"prompts {prompts} line 1: prompt: missing")
    assert line.endswith(f" (and 1 more line: {out} says what of each)")
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ["line-1", "line-3"]


def test_a_missing_strategy_is_one_line(fails, tmp_path):
    line = fails("generate", "--strategy", tmp_path / "none.toml", "--prompt", "a")
    assert "none.toml: cannot be read (No such file" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = ", "is not TOML"),
        ("schema = 2", "schema: found 2, expected 1"),
        ("batches = 3", "model: missing, expected a value"),
    ],
)
def test_a_file_that_is_no_strategy_is_one_line(fails, tmp_path, text, message):
    path = tmp_path / "strategy.toml"
    path.write_text(text)
    line = fails("generate", "--strategy", path, "--prompt", "a")
    assert line.startswith(f"strategy {path}: ")
    assert message in line


def test_an_unknown_key_of_a_strategy_is_named(fails, strategy, tmp_path):
    path = tmp_path / "strategy.toml"
    path.write_text(f"micro_batches = 3\n{strategy.read_text()}")
    line = fails("generate", "--strategy", path, "--prompt", "a")
    assert line == (
        f"strategy {path}: micro_batches: unknown key; remove it or correct its spelling"
    )


def test_a_strategy_of_another_model_is_refused(fails, strategy, tmp_path):
    plan = read_strategy(strategy)
    path = tmp_path / "other.toml"
    model = replace(plan.model, fingerprint="sha256:other")
    write_strategy(path, replace(plan, model=model))
    line = fails("generate", "--strategy", path, "--prompt", "a")
    assert "the strategy is for the model sha256:other" in line


def test_a_strategy_for_devices_that_are_not_here_is_refused(fails, model, tmp_path):
    path = tmp_path / "far.toml"
    write_strategy(path, make_strategy(model, [((0,), [8, 8]), ((9,), [8, 8])]))
    line = fails("generate", "--strategy", path, "--prompt", "a")
    assert "device 'node0/cpu:9': JAX finds 8 cpu devices here" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either --prompt (once or more) or --prompts"),
        (["--prompt", "a", "--prompts", "b.txt"], "expected either --prompt"),
        (["--prompt", "a", "--timeline", "t.pdf"], "ends in .png or .svg"),
        (["--prompt", "a", "--max-new-tokens", "0"], "0 is not in the range x>=1"),
        (["--prompt", "a", "--record", "."], "'--record': File '.' is a directory"),
        (["--prompt", "a", "--out", "."], "'--out': File '.' is a directory"),
    ],
)
def test_options_that_contradict_are_wrong_use(run, strategy, words, message):
    result = run("generate", "--strategy", strategy, *words)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", -1), "temperature is -1.0, expected 0 to 3.4e+38"),
        (("--top-k", -1), "top_k is -1, expected 0"),
        (("--top-p", 2), "top_p is 2.0, expected 0 to 1"),
        (("--seed", 2**63), "seed is 9223372036854775808, expected -9223"),
        (("--stop", ""), "stop: found [''], expected texts"),
        (("--prompt", ""), "prompt 2: the prompt is empty"),
    ],
)
def test_a_choice_that_cannot_be_served_is_refused(fails, strategy, words, message):
    line = fails("generate", "--strategy", strategy, "--prompt", "a", *words)
    assert message in line


def test_rounded_weights_are_kept_where_they_are_asked_to_be(
    run, strategy, expected, cache_home, tmp_path
):
    words = ["generate", "--strategy", strategy, "--ignore-eos", "--json"]
    words += ["--prompt", "def f", "--prompt", "class A"]

    def texts(*more: object) -> tuple[list[str], str]:
        result = run(*words, *more)
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)["results"]
        return [row["text"] for row in rows], result.stderr

    by_default = cache_home / "llmpq-jax" / "weights"
    assert texts("--weights-cache", "none")[0] == expected
    assert not by_default.exists()
    assert texts()[0] == expected
    named = tmp_path / "named"
    assert texts("--weights-cache", named)[0] == expected
    names = sorted(path.name for path in named.iterdir())
    assert names == sorted(path.name for path in by_default.iterdir())
    assert len(names) == 3
    damaged = named / names[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    found, stderr = texts("--weights-cache", named)
    assert found == expected
    found = [line for line in stderr.splitlines() if line.startswith("weights cache")]
    assert found == [
        f"weights cache {damaged}: is not what was written there: its weights are read from the checkpoint and rounded again"
    ]
