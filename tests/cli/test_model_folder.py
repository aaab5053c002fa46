"""A name of a model to download, at every command that takes a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.cli import main
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from tests.cli.conftest import SIZES

NAME = "meta-llama/Llama-3.2-1B"
# Words besides the model, or the strategy that names it; OUT is a file to write.
WORDS = {
    "profile": ("--cluster", "CLUSTER", "--out", "OUT"),
    "indicate": ("--text", "TEXT", "--out", "OUT"),
    "solve": ("--cluster", "CLUSTER", "--roofline", *SIZES, "--out", "OUT"),
    "compare": ("--cluster", "CLUSTER", "--roofline", *SIZES),
    "sweep": (
        *("--over", "batch", "--cluster", "CLUSTER", "--roofline", *SIZES),
        *("--out", "OUT.csv"),
    ),
    "explain": ("--cluster", "CLUSTER", "--roofline"),
    "check": (),
    "generate": ("--prompt", "once", "--out", "OUT"),
    "evaluate": ("--text", "TEXT"),
    "serve": ("--port", "0"),
    "quantize": ("--out", "OUT"),
    "quickstart": ("--work-dir", "OUT"),
}


def words_of(command: str, tmp_path: Path, strategy: Path, cluster: Path) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text("once upon a time")
    paths = {"CLUSTER": cluster, "TEXT": text, "OUT": tmp_path / "out"}
    paths["OUT.csv"] = tmp_path / "out.csv"
    words = [str(paths.get(str(word), word)) for word in WORDS[command]]
    options = {name for each in main.commands[command].params for name in each.opts}
    if "--strategy" not in options:
        return ["--model", NAME, *words]
    planned = read_strategy(strategy)
    named = tmp_path / "strategy.toml"
    model = replace(planned.model, path=str(tmp_path / NAME))
    write_strategy(named, replace(planned, model=model))
    return ["--strategy", str(named), *words]


def test_all_commands_that_take_a_model_are_here():
    taking = {
        name
        for name, command in main.commands.items()
        if {"--model", "--strategy"} & {o for p in command.params for o in p.opts}
    }
    # It reads no model.
    assert taking - {"export"} == set(WORDS)


@pytest.mark.parametrize("command", WORDS)
def test_a_name_to_download_is_refused(command, fails, tmp_path, strategy, cluster):
    line = fails(command, *words_of(command, tmp_path, strategy, cluster))
    assert f"{NAME}: is not a folder: expected one with config.json" in line
    assert "nothing is downloaded" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["solve", "sweep"])
def test_so_it_is_if_prompts_are_read_first(
    command, fails, tmp_path, strategy, cluster
):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("once\n")
    words = words_of(command, tmp_path, strategy, cluster)
    start = words.index("--batch")
    words[start : start + len(SIZES)] = ["--prompts", str(prompts), "--new-tokens", "8"]
    assert "nothing is downloaded" in fails(command, *words)
