"""Options that several commands share, described once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)
# Written at the end of long work: what cannot be a file is refused before it.
OUT_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)
POSITIVE = click.IntRange(min=1)


def cache_home() -> Path:
    """Returns the folder of the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def choice(
    *names: str, values: Mapping[str, Any], default: str, help: str
) -> click.Option:
    """Makes an option that takes one of several words, each of which means a value.

    Args:
        *names: Name of the option, and of its parameter if it is another.
        values: Values by the word that is typed.
        default: Word whose value is the default.
        help: Text for `--help`.
    """
    return click.Option(
        names,
        type=click.Choice(list(values)),
        default=default,
        show_default=True,
        callback=lambda _context, _parameter, word: values.get(word),
        help=help,
    )


MODEL = click.Option(
    ["--model"],
    type=FILE,
    required=True,
    metavar="DIR",
    help="Checkpoint folder with config.json, safetensors and tokenizer.",
)
STRATEGY = click.Option(
    ["--strategy", "strategy_path"],
    type=FILE,
    required=True,
    metavar="FILE",
    help="Strategy file, from `llmpq-jax solve` or written by hand.",
)
CLUSTER = click.Option(
    ["--cluster"],
    type=FILE,
    required=True,
    metavar="FILE",
    help="Cluster file with the devices, their memory and links.",
)
GROUP_SIZE = choice(
    "--group-size",
    values={"32": 32, "64": 64, "128": 128},
    default="128",
    help="Maximum number of weights that share an int4 scale.",
)
TEXT = click.Option(
    ["--text"],
    type=FILE,
    required=True,
    metavar="FILE",
    help="UTF-8 text that resembles what the model will be used on.",
)
WINDOW = click.Option(
    ["--window"],
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Tokens of each window of text, which is evaluated by itself.",
)
JSON = click.Option(
    ["--json", "as_json"], is_flag=True, help="Print JSON instead of tables."
)
