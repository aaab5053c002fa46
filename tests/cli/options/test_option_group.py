"""Groups of options: headings in help, and records for the command's function."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from llmpq_jax.cli import main
from llmpq_jax.cli.options.option_group import (
    OptionGroup,
    choice,
    command,
    flag,
    flags,
    option,
    option_group,
    option_record,
)


@option_record
class Size:
    width: int = option("Width (default: 4).", default=4)
    tags: tuple[str, ...] = option("Tags.", multiple=True)
    bits: tuple[int, ...] = choice("B.", {"16": (16,), "any": (16, 8)}, "16")
    is_wide: bool = flag("Be wide.", name="--wide")
    shade: str | None = flags(dark="Be dark.", light="Be light.")

    def __post_init__(self) -> None:
        if self.is_wide and self.width < 2:
            msg = "--wide needs a --width from 2 up"
            raise ValueError(msg)


GROUP = option_group("Sizes", Size, "size", name=option("Name.", required=True))


def typed(group: OptionGroup, *words: str) -> tuple[dict[str, Any], str]:
    """What a command with this group is called with, and what went wrong."""
    calls: list[dict[str, Any]] = []

    @command("typed", group, json=flag("JSON."))
    def called(**arguments: Any) -> None:
        calls.append(arguments)

    result = CliRunner().invoke(called, words)
    return (calls[0] if calls else {}), result.output


def test_a_record_has_what_was_typed_and_defaults():
    arguments, _ = typed(GROUP, "--name", "a", "--bits", "any", "--tags", "x")
    size = Size(width=4, tags=("x",), bits=(16, 8))
    assert arguments == {"size": size, "name": "a", "json": False}
    assert typed(GROUP, "--name", "a")[0]["size"] == Size()


def test_the_last_of_several_flags_of_a_field_counts():
    words = ("--name", "a", "--dark", "--light")
    assert typed(GROUP, *words)[0]["size"] == Size(shade="light")


def test_without_defaults_only_what_was_typed_is_there():
    group = GROUP.without_defaults("Sizes of old")
    assert typed(group)[0] == {"size": {}, "name": None, "json": False}
    words = ("--width", "0", "--bits", "16", "--wide", "--tags", "x")
    expected = {"width": 0, "bits": (16,), "is_wide": True, "tags": ("x",)}
    assert typed(group, *words)[0]["size"] == expected
    assert "Width." in typed(group, "--help")[1]
    assert "Width (default: 4)." in typed(GROUP, "--help")[1]


def test_only_some_options_may_be_taken():
    arguments, output = typed(GROUP.only("width"), "--width", "2")
    assert arguments["size"] == Size(width=2)
    assert "No such option" in typed(GROUP.only("width"), "--wide")[1], output


def test_values_that_do_not_go_together_are_wrong_use():
    _, output = typed(GROUP, "--name", "a", "--width", "1", "--wide")
    assert "Usage: " in output
    assert "--wide needs a --width from 2 up" in output


@pytest.mark.parametrize("name", ["solve", "generate", "explain", "profile"])
def test_help_has_a_heading_for_every_option(name):
    shown = CliRunner().invoke(main, [name, "--help"]).stdout
    titles = [line for line in shown.splitlines() if line and line[0] != " "]
    assert len(titles) >= 5
    *_, rest = shown.split("Other options:\n")
    others = [line.split()[0] for line in rest.splitlines() if line.startswith("  -")]
    assert set(others) <= {"--json", "-h,"}
    for parameter in main.commands[name].params:
        assert f"\n  {parameter.opts[0]}" in shown
