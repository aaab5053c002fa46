"""The README and other pages show commands that exist, and a strategy that is committed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from llmpq_jax.cli import main

_ROOT = Path(__file__).parents[1]
_TEXT = (_ROOT / "README.md").read_text(encoding="utf-8")
_TOML = re.findall(r"```toml\n(.*?)```", _TEXT, re.DOTALL)
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]


def shown_commands(page: Path) -> list[str]:
    """Command lines of `llmpq-jax` in a page's console blocks, continuation lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.strip().removeprefix("$ llmpq-jax ")
        for line in lines
        if line.strip().startswith("$ llmpq-jax ")
    ]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_command_and_option_shown_exists(page) -> None:
    for line in shown_commands(page):
        name, *words = shlex.split(line, comments=True)
        command = main.get_command(click.Context(main), name)
        assert command is not None, name
        options = {option for p in command.params for option in p.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize(("page", "minimum"), [("README.md", 3), ("tutorial.md", 8)])
def test_commands_shown_are_found(page, minimum) -> None:
    """A check that finds no command would find no wrong one either."""
    path = next(path for path in _PAGES if path.name == page)
    assert len(shown_commands(path)) >= minimum


def test_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"\$ make ([a-z-]+)", _TEXT))
    made = set(
        re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    assert {"quickstart", "test"} <= targets <= made


def test_the_strategy_shown_is_the_committed_one() -> None:
    (shown,) = _TOML
    path = _ROOT / "strategies" / "tiny-two-cpu" / "strategy.toml"
    committed = path.read_text(encoding="utf-8")
    for part in shown.split("# …\n"):
        assert part.strip() in committed


def table_row(name: str) -> list[str]:
    """Cells after the first of the README's row with a name."""
    (row,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", _TEXT, re.MULTILINE)
    return [cell.strip(" *") for cell in row.split("|")]


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("llmpq-jax", "llmpq-jax"),
        ("llama.cpp", "llama.cpp (Q8_0, Q4_0)"),
        ("transformers", "transformers (float32)"),
    ],
)
def test_the_rates_shown_are_those_of_the_committed_result(peer, name) -> None:
    rates = []
    for phase in ("decode", "prefill"):
        for bits in (8, 4):
            name_of_file = f"2026-11-26-zen4-peers-int{bits}-bfloat16.json"
            path = _ROOT / "benchmarks" / "results" / "peers" / name_of_file
            batches = json.loads(path.read_text(encoding="utf-8"))["batches"]
            (batch,) = [batch for batch in batches if batch["batch"] == 32]
            rates.append(f"{batch[phase][peer]['tokens_per_s']:.0f}")
    assert table_row(name) == rates


def test_the_ratios_shown_are_the_means_of_the_results() -> None:
    results = (_ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    # Three clusters and their mean.
    row = r"^\| ([^|]+) \|(?: [\d.]+× \|){3} ([\d.]+×) \|$"
    means = dict(re.findall(row, results, re.MULTILINE))
    methods = [
        "uniform",
        "memory-proportional",
        "adabits",
        "PipeEdge",
        "transfer",
        "PipeEdge, micro-batches searched",
    ]
    shown = table_row(means["uniform"])
    assert [means["uniform"], *shown] == [means[method] for method in methods]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", _TEXT):
        assert target.startswith("https://") or (_ROOT / target).exists(), target
