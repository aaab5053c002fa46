"""No output of any command overwrites what is read or written too, whatever its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from llmpq_jax.cli import main
from llmpq_jax.cli.options.option_group import option
from llmpq_jax.cli.options.paths import (
    InputPath,
    OutputFile,
    OutputFolder,
    PathOption,
)
from tests.support.devices import null_device

# What a command needs besides its required options to have some others.
_WITH: dict[tuple[str, str], tuple[str, ...]] = {
    ("explain", "picture"): ("--run", "run.jsonl"),
    ("explain", "trace"): ("--run", "run.jsonl"),
    ("generate", "*"): ("--prompt", "x"),
    ("generate", "prompts_path"): (),
    ("solve", "validation_text"): ("--max-kl", "1"),
    ("solve", "validation_record"): ("--max-kl", "1", "--validation-text", "text"),
}
_ENDINGS = {"timeline": ".png", "picture": ".png"}


def options_of(kind: type[PathOption]) -> list[Any]:
    """Every option of every command whose type is of a kind, with its command."""
    return [
        pytest.param(name, each, id=f"{name} {each.opts[0]}")
        for name, command in main.commands.items()
        for each in command.params
        if isinstance(each.type, kind)
    ]


@pytest.mark.parametrize(
    ("command", "each"),
    [
        pytest.param(command, each, id=f"{name} {each.opts[0]}")
        for name, command in main.commands.items()
        for each in command.params
    ],
)
def test_an_option_that_names_a_path_is_checked(command, each):
    """By its placeholder in help, and by what help says of it."""
    if re.match("FILE|DIR|RECORD", each.make_metavar(click.Context(command))):
        assert isinstance(each.type, PathOption)
    if re.search(
        r"to write|picture to draw|added to|are replaced|(?:File|Folder) for", each.help
    ):
        assert isinstance(each.type, OutputFile | OutputFolder)


def test_there_are_outputs_to_check():
    names = {f"{p.values[0]} {p.values[1].opts[0]}" for p in options_of(OutputFile)}
    assert names == {
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
        "solve --validation-record",
        "sweep --out",
    }
    names = {f"{p.values[0]} {p.values[1].opts[0]}" for p in options_of(OutputFolder)}
    assert names == {
        "check --weights-cache",
        "evaluate --weights-cache",
        "generate --weights-cache",
        "indicate --rounded",
        "quantize --out",
        "quickstart --work-dir",
        "serve --files",
        "serve --weights-cache",
    }


def test_an_option_cannot_have_a_path_that_is_not_checked():
    for type_ in (click.Path(), click.File("w")):
        with pytest.raises(
            TypeError, match=r"expected a type of cli/options/paths\.py"
        ):
            option("File to write.", type_)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with an input of each name."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (checkpoint / name).write_text("{}")
    for name in ("text", "run.jsonl"):
        (tmp_path / name).write_text("x")
    return tmp_path


@pytest.fixture
def typed(folder, monkeypatch):
    """Types a command with an option; its function only says that it was called."""

    def type_command(name: str, *words: str, needs: str = "*") -> Result:
        command = main.commands[name]
        with monkeypatch.context() as patched:
            patched.setattr(command, "callback", lambda **_: click.echo("called"))
            required = list(
                _required(command, {word for word in words if word[:1] == "-"})
            )
            more = _WITH.get((name, needs), _WITH.get((name, "*"), ()))
            if name in {"solve", "sweep", "compare"} and "--measurements" not in words:
                more = (*more, "--roofline")
            return CliRunner().invoke(main, [name, *required, *more, *words])

    return type_command


def _required(command: click.Command, typed: set[str]) -> Iterator[str]:
    for each in command.params:
        if each.required and not typed & set(each.opts):
            yield each.opts[0]
            if isinstance(each.type, click.Choice):
                yield each.type.choices[0]
            elif isinstance(each.type, PathOption):
                is_model = each.name == "model"
                ending = _ENDINGS.get(str(each.name), "")
                yield "model" if is_model else _input(each, ending)
            else:
                yield "2"


def _input(each: click.Parameter, ending: str) -> str:
    """Returns a file of its own for an option, which is there if it is an input."""
    path = Path(f"of-{each.name}{ending}")
    if isinstance(each.type, InputPath):
        path.write_text("")
    return str(path)


def refused(result: Result, *words: str) -> None:
    assert "called" not in result.output
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


OUTPUTS = [*options_of(OutputFile), *options_of(OutputFolder)]


@pytest.mark.parametrize(("name", "output"), OUTPUTS)
def test_no_output_is_an_input_of_the_same_command(typed, folder, name, output):
    command = main.commands[name]
    inputs = [each for each in command.params if isinstance(each.type, InputPath)]
    for each in inputs:
        ending = _ENDINGS.get(str(output.name), "")
        path = "model" if each.name == "model" else _input(each, ending)
        needs = next(
            (str(o.name) for o in (output, each) if (name, o.name) in _WITH), "*"
        )
        words = (each.opts[0], path)
        if needs != "*" and each.opts[0] in _WITH[name, needs]:
            continue
        if (name, each.name) == ("explain", "strategy_path"):
            continue
        is_folder = isinstance(output.type, OutputFolder)
        target = path if each.name != "model" or is_folder else f"{path}/config.json"
        (folder / f"hard{ending}").unlink(missing_ok=True)
        (folder / f"soft{ending}").unlink(missing_ok=True)
        Path(f"soft{ending}").symlink_to(target)
        targets = [f"soft{ending}"]
        if ending in target:
            targets += [target, f"./{target}"]
        if Path(target).is_file():
            os.link(target, f"hard{ending}")
            targets.append(f"hard{ending}")
        for written in targets:
            if is_folder and Path(target).is_file():
                continue
            result = typed(name, *words, output.opts[0], written, needs=needs)
            refused(
                result, output.opts[0], each.opts[0], "which is read: expected a path"
            )
    assert (folder / "model/config.json").read_text() == "{}"


@pytest.mark.parametrize("name", sorted({p.values[0] for p in OUTPUTS}))
def test_no_two_outputs_are_one_file(typed, name):
    command = main.commands[name]
    outputs = [e for e in command.params if isinstance(e.type, OutputFile)]
    for one in outputs:
        for other in outputs:
            if one is other:
                continue
            ending = _ENDINGS.get(str(one.name), _ENDINGS.get(str(other.name), ""))
            words = (one.opts[0], f"same{ending}", other.opts[0], f"./same{ending}")
            needs = next(
                (str(o.name) for o in (one, other) if (name, o.name) in _WITH), "*"
            )
            refused(
                typed(name, *words, needs=needs),
                one.opts[0],
                other.opts[0],
                "which is written too",
            )


def test_what_is_written_next_to_an_output_counts(typed, folder):
    words = ("--out", "results", "--record", "results.manifest.toml")
    refused(typed("generate", *words), "results.manifest.toml", "which is written too")
    (folder / "model/front.png").touch()
    (folder / "cluster").write_text("")
    os.link("cluster", "front.png")
    words = ("--out", "front.csv", "--cluster", "cluster")
    refused(typed("sweep", *words), "front.png is the path of --cluster cluster")


def test_what_a_strategy_names_counts(typed, folder):
    (folder / "plans").mkdir()
    (folder / "rounded").mkdir()
    (folder / "rounded/rounded.json").write_text("{}")
    (folder / "plans/strategy.toml").write_text(
        '[model]\npath = "../model"\nrounded = "../rounded"\n'
        '[request.sources]\ncluster = "../text"\n'
    )
    words = ("--strategy", "plans/strategy.toml")
    for path in ("model/config.json", "rounded/rounded.json", "text"):
        refused(typed("generate", *words, "--record", path), "of --strategy")
    refused(typed("quantize", *words, "--out", "model"), "of --strategy")


@pytest.mark.parametrize(("name", "output"), OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_first(typed, folder, name, output):
    (folder / "file").write_text("")
    needs = str(output.name) if (name, output.name) in _WITH else "*"
    path = f"file/below{_ENDINGS.get(str(output.name), '')}"
    result = typed(name, output.opts[0], path, needs=needs)
    if output.name == "weights_cache":
        assert result.stdout == "called\n"
    else:
        other = "folder" if isinstance(output.type, OutputFolder) else "file"
        refused(result, path, f"(Not a directory): name another {other}")


@pytest.mark.parametrize(("name", "output"), options_of(OutputFile))
def test_a_device_may_be_written_to_twice(typed, folder, name, output):
    null = null_device(folder / f"null{_ENDINGS.get(str(output.name), '')}")
    needs = str(output.name) if (name, output.name) in _WITH else "*"
    result = typed(name, output.opts[0], str(null), needs=needs)
    if output.type.is_read:
        refused(result, f"{null}: is a device or a pipe: expected a file")
    else:
        assert result.stdout == "called\n", result.output
    assert null.is_char_device()


def test_records_may_all_go_to_one_device(typed, folder):
    null = str(null_device(folder / "null"))
    words = ("--record", null, "--trace", null)
    assert typed("generate", *words).stdout == "called\n"
