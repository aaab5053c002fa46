"""Types of options, and options that several commands share."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from llmpq_jax.cli.options.option_group import choice, flag, option
from llmpq_jax.cli.options.paths import InputPath, OutputFile, named_by_strategy
from llmpq_jax.files import is_stream
from llmpq_jax.schema.precision import ALL_BITS, USUAL_BITS, Bits

FILE = InputPath()
# Of records whose fields are texts.
FILE_TEXT = InputPath(path_type=str)
OUT_FILE = OutputFile()
POSITIVE = click.IntRange(min=1)
ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
FROM_ZERO = click.FloatRange(min=0)


def cache_home() -> Path:
    """Returns the folder of the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def work_folder(out: Path) -> Path:
    """Returns the folder of what a long computation of an output keeps meanwhile."""
    if is_stream(out):
        return cache_home() / "llmpq-jax" / "work" / out.name
    return out.with_name(f".{out.name}.work")


def _bits(value: str) -> tuple[Bits, ...]:
    """Reads precisions such as 16,8,4; returns them from high to low."""
    typed = [word.strip() for word in value.split(",")]
    known = tuple(map(str, ALL_BITS))
    unknown = [word for word in typed if word not in known]
    if unknown:
        msg = f"found {unknown[0]!r}, expected some of {', '.join(known)} with commas between, such as 16,8,4"
        raise click.BadParameter(msg)
    return tuple(bits for bits in ALL_BITS if str(bits) in typed)


def bits_option(help: str) -> Any:
    """Describes an option that takes several precisions of layers."""
    usual = ",".join(map(str, USUAL_BITS))
    described = option(help, _bits, name="--bits", default=usual, metavar="N,N,…")
    return replace(described, value=USUAL_BITS)


MODEL: Any = option(
    "Checkpoint folder with config.json, safetensors and tokenizer; nothing is "
    "downloaded.",
    FILE,
    required=True,
    metavar="DIR",
)
STRATEGY: Any = option(
    "Strategy file, from `llmpq-jax solve` or written by hand.",
    InputPath(others=named_by_strategy),
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
