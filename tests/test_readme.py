"""The README shows what is so: its commands exist, its strategy is the committed one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from llmpq_jax.cli import main

_ROOT = Path(__file__).parents[1]
_TEXT = (_ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"```(\w*)\n(.*?)```", _TEXT, re.DOTALL)


def test_every_command_and_option_shown_exists() -> None:
    shown = [
        line.removeprefix("$ llmpq-jax ")
        for _, block in _BLOCKS
        for line in block.splitlines()
        if line.startswith("$ llmpq-jax ")
    ]
    assert len(shown) >= 3
    for line in shown:
        name, *words = shlex.split(line)
        command = main.get_command(click.Context(main), name)
        assert command is not None, name
        options = {option for p in command.params for option in p.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"\$ make ([a-z-]+)", _TEXT))
    made = set(
        re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    assert {"quickstart", "test"} <= targets <= made


def test_the_strategy_shown_is_the_committed_one() -> None:
    (shown,) = [block for language, block in _BLOCKS if language == "toml"]
    path = _ROOT / "strategies" / "tiny-two-cpu" / "strategy.toml"
    committed = path.read_text(encoding="utf-8")
    for part in shown.split("# …\n"):
        assert part.strip() in committed


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", _TEXT):
        assert target.startswith("https://") or (_ROOT / target).exists(), target
