"""Each command, typed so that it works, with its outputs in one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Prompt and context are in one bucket, which halves what is compiled.
SIZES = ("--batch", 2, "--prompt-length", 8, "--new-tokens", 8)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files that commands read."""

    model: Path
    cluster: Path
    measurements: Path
    strategy: Path
    text: Path
    run_record: Path
    prompts: Path


def words_of(name: str, inputs: Inputs, out: Path) -> list[str]:
    """Returns a command with every output that it has, below `out`."""
    problem = ("--model", inputs.model, "--cluster", inputs.cluster)
    problem += ("--measurements", inputs.measurements)
    commands: dict[str, Callable[[], tuple[object, ...]]] = {
        "devices": lambda: ("--cpu-devices", 2, "--out", out / "out.toml"),
        "profile": lambda: (
            *("--model", inputs.model, "--cluster", inputs.cluster, "--quick"),
            *(*SIZES, "--out", out / "out.toml"),
        ),
        "indicate": lambda: (
            *("--model", inputs.model, "--text", inputs.text, "--window", 16),
            *("--assignments", 2, "--rounding", "clip", "--rounded", out / "rounded"),
            *("--out", out / "out.toml"),
        ),
        "solve": lambda: (*problem, *SIZES, "--out", out / "out.toml"),
        "compare": lambda: (*problem, *SIZES),
        "explain": lambda: (
            *("--run", inputs.run_record, "--picture", out / "picture.png"),
            *("--trace", out / "trace.json"),
        ),
        "sweep": lambda: (
            *(*problem, *SIZES, "--over", "batch", "--points", 2),
            *("--out", out / "out.csv"),
        ),
        "check": lambda: ("--strategy", inputs.strategy),
        "generate": lambda: (
            *("--strategy", inputs.strategy, "--prompts", inputs.prompts),
            *("--out", out / "out.jsonl", "--record", out / "record.jsonl"),
            *("--trace", out / "trace.json", "--timeline", out / "timeline.png"),
        ),
        "evaluate": lambda: ("--strategy", inputs.strategy, "--text", inputs.text),
        "quantize": lambda: ("--strategy", inputs.strategy, "--out", out / "model"),
        "export": lambda: ("--strategy", inputs.strategy, "--to", "vllm"),
        "quickstart": lambda: ("--model", inputs.model, "--work-dir", out / "work"),
    }
    return [name, *map(str, commands[name]())]
