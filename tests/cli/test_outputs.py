"""What commands write goes where it was typed, text comes first, and failures are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.every_command import words_of
from tests.support.devices import full_device, null_device, room_for


def _cases(*quick: str) -> list:
    every = (
        "devices --out",
        "explain --picture",
        "explain --trace",
        "generate --out",
        "generate --record",
        "generate --timeline",
        "generate --trace",
        "indicate --out",
        "profile --out",
        "solve --out",
        "sweep --out",
    )
    return [
        pytest.param(*case.split(), marks=() if case in quick else pytest.mark.full)
        for case in every
    ]


def _with(words: list[str], option: str, path: Path) -> list[str]:
    """Returns a command whose option is this path."""
    index = words.index(option) + 1
    return [*words[:index], str(path), *words[index + 1 :]]


def _named_like(words: list[str], option: str, path: Path) -> Path:
    """Returns a path that ends as the option's does."""
    return path.with_suffix(Path(words[words.index(option) + 1]).suffix)


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("name", "option"), _cases("solve --out", "generate --record"))
def test_a_symbolic_link_leads_to_the_file(run, inputs, out, name, option):
    words = words_of(name, inputs, out)
    link = _named_like(words, option, out / "link")
    target = _named_like(words, option, out.parent / "target")
    link.symlink_to(target)
    result = run(*_with(words, option, link))
    assert result.exit_code == 0, result.output
    assert link.is_symlink()
    assert target.stat().st_size > 100


@pytest.mark.parametrize(("name", "option"), _cases("devices --out"))
def test_a_device_takes_what_is_written(run, inputs, out, name, option):
    words = words_of(name, inputs, out)
    null = null_device(_named_like(words, option, out.parent / "null"))
    before = sorted(path.name for path in out.parent.iterdir())
    result = run(*_with(words, option, null))
    assert null.is_char_device()
    if name == "profile":
        assert "is a device or a pipe: expected a file" in result.stderr
    else:
        assert result.exit_code == 0, result.output
    added = {path.name for path in out.parent.iterdir()} - {*before, "cache-home"}
    # Of a sweep, the picture is another file.
    assert added <= {"null.png"}


@pytest.mark.parametrize(
    ("name", "option"), _cases("solve --out", "explain --picture", "generate --trace")
)
def test_a_full_disk_costs_no_text_and_is_named(run, inputs, out, name, option):
    if name == "profile":
        pytest.skip("its file is no device, see below")
    words = words_of(name, inputs, out)
    full = full_device(_named_like(words, option, out.parent / "full"))
    result = run(*_with(words, option, full))
    assert result.exit_code == 1, result.output
    *_, line = result.stderr.splitlines()
    assert line.startswith(("error: output", "error: results"))
    assert f" {full}: " in line
    assert "(No space left on device): " in line
    assert "make room" in line
    assert full.is_char_device()
    if option != "--out" or name in {"solve", "devices", "indicate"}:
        assert result.stdout.count("\n") > 2


def test_a_disk_without_room_is_noticed_before_the_work(fails, inputs, out):
    words = words_of("solve", inputs, out)
    with room_for(1000):
        line = fails(*words)
    assert line.startswith(f"output {out / 'out.toml'}: cannot be written (File too")
    assert list(out.iterdir()) == []


@pytest.mark.full
def test_measurements_that_do_not_fit_the_disk_stay_whole(run, inputs, out):
    words = words_of("profile", inputs, out)
    assert run(*words).exit_code == 0
    size_bytes = (out / "out.toml").stat().st_size
    words.append("--overwrite")
    with room_for(size_bytes - 100):
        result = run(*words)
    assert result.exit_code == 1, result.output
    path = out / "out.toml"
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert line == (
        f"error: measurements {path}: cannot be written (File too large): make room "
        "there, or name another file"
    )
    result = run(*words[:-1])
    assert result.exit_code == 0, result.output


def test_records_that_cannot_be_written_do_not_keep_others_from_it(run, inputs, out):
    words = words_of("generate", inputs, out)
    for option in ("--record", "--timeline"):
        name = f"{option[2:]}.png"
        words = _with(words, option, full_device(out.parent / name))
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert "/record.png: cannot be written" in result.stderr
    assert "; output " in result.stderr
    assert "new tokens of" in result.stdout
    assert (out / "trace.json").stat().st_size > 100
    assert (out / "out.jsonl").read_text().count("\n") == 4


def test_text_that_cannot_be_written_is_one_line(inputs, out, tmp_path):
    words = [sys.executable, "-m", "llmpq_jax", "export", "--to", "vllm"]
    with full_device(tmp_path / "full").open("w") as full:
        done = subprocess.run(
            [*words, "--strategy", str(inputs.strategy)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output: cannot be written (No space left on device): make "
        "room, or send it to another place\n"
    )
