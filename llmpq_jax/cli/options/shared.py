"""Types of options, and options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from llmpq_jax.cli.options.option_group import choice, flag, option


class _FilePath(click.Path):
    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "FILE"


FILE = _FilePath(path_type=Path)
# Written at the end of long work: what cannot be a file is refused before it.
OUT_FILE = _FilePath(path_type=Path, dir_okay=False, writable=True)
POSITIVE = click.IntRange(min=1)
ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
FROM_ZERO = click.FloatRange(min=0)


def cache_home() -> Path:
    """Returns the folder of the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


MODEL: Any = option(
    "Checkpoint folder with config.json, safetensors and tokenizer; nothing is "
    "downloaded.",
    FILE,
    required=True,
    metavar="DIR",
)
STRATEGY: Any = option(
    "Strategy file, from `llmpq-jax solve` or written by hand.",
    FILE,
    name="--strategy",
    required=True,
)
CLUSTER: Any = option(
    "Cluster file with the devices, their memory and links.", FILE, required=True
)
GROUP_SIZE: Any = choice(
    "Maximum number of weights that share an int4 scale.",
    {"32": 32, "64": 64, "128": 128},
    "128",
)
WINDOW: Any = option(
    "Tokens of each window of text, which is evaluated by itself.",
    click.IntRange(min=2),
    default=512,
)
OVERWRITE: Any = flag("Replace an existing --out file.")
JSON: Any = flag("Print JSON instead of tables.", name="--json")
