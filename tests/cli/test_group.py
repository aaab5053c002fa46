from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from llmpq_jax import LlmpqError, __version__
from llmpq_jax.cli import main
from llmpq_jax.cli.group import command_as_typed

# What `--help` may import besides Python's own: each takes a few hundredths of a second.
LIGHT = {"click", "llmpq_jax"}
LIST_HEAVY = f"""
import sys
before = set(sys.modules)
from llmpq_jax.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
found = {{name.partition(".")[0] for name in set(sys.modules) - before}}
found -= {LIGHT!r} | set(sys.stdlib_module_names)
assert not found, found
"""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy_and_lists_the_commands_in_order():
    done = _python("-c", LIST_HEAVY)
    assert done.returncode == 0, done.stderr
    commands = done.stdout.partition("\nCommands:")[2]
    node_devices = [commands.index(f"\n  {name} ") for name in main.commands]
    assert node_devices == sorted(node_devices)


def test_no_command_is_cut_short_in_the_list():
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).stdout
    assert "..." not in shown.partition("\nCommands:")[2]


@pytest.mark.parametrize("name", list(main.commands))
def test_every_command_and_option_has_help(name):
    command = main.commands[name]
    assert command.help
    for option in command.params:
        assert isinstance(option, click.Option)
        assert option.help, option.name
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout == f"llmpq-jax, version {__version__}\n"


@pytest.fixture
def failing(monkeypatch):
    """Adds a command that raises what it is given."""

    def add(error: BaseException):
        @click.command("fail")
        def fail() -> None:
            raise error

        monkeypatch.setitem(main.commands, "fail", fail)

    return add


def test_an_error_of_ours_is_one_line_and_exit_1(failing):
    failing(LlmpqError("found this:\nexpected that"))
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 1
    assert (result.stdout, result.stderr) == (
        "",
        "error: found this: expected that\n",
    )


def test_debug_shows_the_traceback(failing):
    error = LlmpqError("found this")
    failing(error)
    result = CliRunner().invoke(main, ["--debug", "fail"])
    assert result.exit_code == 1
    assert result.exception is error
    assert "Error:" not in result.output
    assert "error:" not in result.output


def test_a_file_that_cannot_be_written_is_one_line_too(failing):
    failing(PermissionError(13, "Permission denied", "/plan.toml"))
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "error: /plan.toml: Permission denied\n"


def test_an_error_of_the_system_without_a_file_is_one_line_too(failing):
    failing(OSError("out of handles"))
    assert CliRunner().invoke(main, ["fail"]).stderr == "error: out of handles\n"


def test_a_bug_keeps_its_traceback(failing):
    failing(ZeroDivisionError())
    result = CliRunner().invoke(main, ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_interrupt_is_one_line_and_exit_130(failing):
    failing(KeyboardInterrupt())
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted\n"


@pytest.mark.parametrize("words", [["nonsense"], ["solve"], ["generate", "--nonsense"]])
def test_wrong_use_exits_2(words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr


def test_a_command_knows_how_it_was_typed(monkeypatch):
    @click.command("typed")
    @click.argument("words", nargs=-1)
    def typed(words: tuple[str, ...]) -> None:
        del words
        click.echo(command_as_typed())

    monkeypatch.setitem(main.commands, "typed", typed)
    result = CliRunner().invoke(main, ["--debug", "typed", "two words"])
    assert result.stdout == "llmpq-jax --debug typed 'two words'\n"
