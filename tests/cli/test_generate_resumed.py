"""A job of `generate` goes on where its last run was cut off, whatever cut it off."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

# The full profile kills as often as the job promises to survive.
NUM_KILLS = 20 if settings().max_examples > 100 else 3
NUM_LINES = 60


def write_lines(path: Path) -> list[str]:
    """Writes lines of all forms, named and not, good and bad; returns their names."""
    rng = random.Random(0)
    names = []
    with path.open("w") as file:
        for number in range(1, NUM_LINES + 1):
            choices = {
                "max_tokens": rng.randint(1, 8),
                "temperature": rng.choice([0, 0.9]),
                "seed": number,
            }
            text = rng.choice(["def f", "class A", "import", "x = "])
            line: object = {
                0: {"prompt": text, **choices},
                1: {"custom_id": f"plain {number}", "prompt": text, **choices},
                2: {
                    "custom_id": f"theirs {number}",
                    "url": "/v1/completions",
                    "body": {"prompt": text, **choices},
                },
                3: {"custom_id": f"long {number}", "prompt": text * 40},
                4: {"custom_id": "plain 1", "prompt": text},
            }[4 if number % 20 == 0 else 3 if number % 9 == 0 else number % 3]
            name = f"line-{number}"
            if isinstance(line, dict) and line.get("custom_id") != "plain 1":
                name = line.get("custom_id", name)
            elif number == 1:
                name = "plain 1"
            names.append(name)
            file.write(json.dumps(line) + "\n")
    return names


def what_was_said(path: Path) -> dict[str, object]:
    """Returns what each line became, without the ids that no two runs share."""
    said: dict[str, object] = {}
    for line in path.read_text().splitlines():
        values = json.loads(line)
        assert values["custom_id"] not in said
        response = values.get("response")
        said[values["custom_id"]] = (
            values.get("text"),
            response and response["body"]["choices"],
            values.get("error"),
        )
    return said


@pytest.fixture
def start(strategy, tmp_path):
    """Starts `generate` on its own; what it says lies in a file."""

    def start_one(*words: object, room_bytes: int | None = None) -> subprocess.Popen:
        command = [sys.executable, "-m", "llmpq_jax", "generate"]
        command += ["--strategy", str(strategy), *map(str, words)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        environment |= {"JAX_PLATFORMS": "cpu"}

        with (tmp_path / "said.txt").open("w") as said:
            process = subprocess.Popen(
                command, env=environment, stdout=said, stderr=said
            )
        if room_bytes is not None:
            # Long before it has imported what writes.
            room = (room_bytes, room_bytes)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, room)
        return process

    return start_one


def num_lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_and_repeats_nothing(start, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    names = write_lines(prompts)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert start("--prompts", prompts, "--out", whole).wait() == 1  # of the bad lines
    expected = what_was_said(whole)
    assert sorted(expected) == sorted(names)
    words = ("--prompts", prompts, "--out", out, "--resume")
    rng = random.Random(NUM_KILLS)
    num_killed = 0
    for kill in range(NUM_KILLS):
        process = start(*words)
        # Some while it starts, the others when it has done some more.
        more = rng.randint(0, 2 * NUM_LINES // NUM_KILLS)
        patience_s = rng.uniform(0, 4) if kill % 4 == 0 else float("inf")
        started_s, wanted = time.monotonic(), num_lines_of(out) + more
        while (
            process.poll() is None
            and num_lines_of(out) < wanted
            and time.monotonic() - started_s < patience_s
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        num_killed += process.poll() is None
        process.kill()
        process.wait()
        assert process.returncode in {-9, 1}, (tmp_path / "said.txt").read_text()
    assert num_killed > 0
    assert start(*words).wait() == 1
    assert what_was_said(out) == expected


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_job_goes_on_later(start, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    names = write_lines(prompts)
    out = tmp_path / "out.jsonl"
    words = ("--prompts", prompts, "--out", out, "--resume")
    # Room for the description of the job and some results; none for what is compiled.
    assert start(*words, room_bytes=5000).wait() == 1
    *_, last = (tmp_path / "said.txt").read_text().splitlines()
    assert last.startswith(f"error: results {out}: the result of ")
    assert last.endswith(" results are kept there; make room, then go on with --resume")
    kept = what_was_said(out)
    assert 0 < len(kept) < len(names)
    assert start(*words).wait() == 1
    assert sorted(what_was_said(out)) == sorted(names)
    assert kept.items() <= what_was_said(out).items()


def test_what_is_done_is_not_done_again(run, strategy, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"custom_id": "a", "prompt": "def f", "max_tokens": 2}\n')
    words = ("generate", "--strategy", strategy, "--prompts", prompts, "--out", out)
    assert run(*words, "--resume").exit_code == 0
    first = out.read_bytes()
    with prompts.open("a") as file:
        file.write('{"custom_id": "b", "prompt": "class A", "max_tokens": 1}\n')
    result = run(*words, "--resume")
    assert f"continuing {out}, which has 1 result" in result.stderr
    assert "1 new token of 1 prompt in" in result.stdout
    assert out.read_bytes().startswith(first)
    result = run(*words, "--resume")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "every prompt has its result: there is nothing to do" in result.stderr
    assert sorted(what_was_said(out)) == ["a", "b"]
    plans = {tuple(json.loads(line)["plans"]) for line in out.read_text().splitlines()}
    job = (tmp_path / "out.jsonl.manifest.toml").read_text()
    ((plan,),) = plans
    assert f'strategies = ["sha256:{plan}' in job


def test_another_job_is_refused(run, fails, strategy, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"custom_id": "a", "prompt": "def f", "max_tokens": 2}\n')
    words = ("generate", "--strategy", strategy, "--prompts", prompts, "--out", out)
    assert run(*words).exit_code == 0
    line = fails(*words, "--resume", "--seed", 4)
    assert "--seed was 0 and is 4: expected all as at the start of the run" in line
    edited = tmp_path / "edited.toml"
    text = strategy.read_text()
    edited.write_text(text.replace("bits = [16, 8]", "bits = [8, 8]"))
    line = fails("generate", "--strategy", edited, *words[3:], "--resume")
    assert "the strategy is the plan " in line
    assert "which did not serve the run: expected " in line
    assert "is there already: name another file, or say --resume" in fails(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("--prompt", "a", "--resume", "--out", "x.jsonl"),
        ("--prompts", "a.jsonl", "--resume"),
        ("--prompts", "a.jsonl", "--out", "x.jsonl", "--resume", "--overwrite"),
    ],
)
def test_to_resume_takes_a_file_of_results(run, strategy, words):
    result = run("generate", "--strategy", strategy, *words)
    assert result.exit_code == 2
    assert "expected --prompts and --out with it, and no --overwrite" in result.stderr
