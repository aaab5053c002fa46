"""Options that several commands share, described once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = click.Path(path_type=Path)
# Written at the end of long work: what cannot be a file is refused before it.
OUT_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)
POSITIVE = click.IntRange(min=1)
GROUP_SIZES: dict[int, Literal[32, 64, 128]] = {32: 32, 64: 64, 128: 128}
KV_BITS: dict[str, Literal[8, 16]] = {"8": 8, "16": 16}


def cache_home() -> Path:
    """Returns where the user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def with_options(*options: Decorator) -> Decorator:
    """Makes one decorator of several options, which help then shows in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_option = click.option(
    "--model",
    type=FILE,
    required=True,
    metavar="DIR",
    help="Checkpoint folder: config.json, safetensors, tokenizer.",
)
strategy_option = click.option(
    "--strategy",
    "strategy_path",
    type=FILE,
    required=True,
    metavar="FILE",
    help="What `llmpq-jax solve` or a person wrote.",
)
cluster_option = click.option(
    "--cluster",
    type=FILE,
    required=True,
    metavar="FILE",
    help="The devices, their memory and links, as TOML.",
)
batch_option = click.option(
    "--batch", type=POSITIVE, default=16, show_default=True, help="Prompts at a time."
)
prompt_length_option = click.option(
    "--prompt-length",
    type=POSITIVE,
    default=64,
    show_default=True,
    help="Tokens of the longest prompt.",
)
new_tokens_option = click.option(
    "--new-tokens",
    type=POSITIVE,
    default=64,
    show_default=True,
    help="Tokens generated for each prompt at most.",
)
kv_bits_option = click.option(
    "--kv-bits",
    type=click.Choice(list(KV_BITS)),
    default="16",
    show_default=True,
    help="Precision of the cache of keys and values; 16 keeps the activations' type.",
)
text_option = click.option(
    "--text",
    type=FILE,
    required=True,
    metavar="FILE",
    help="UTF-8 text like what the model will meet.",
)
window_option = click.option(
    "--window",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Tokens of each piece of text that is judged by itself.",
)
omega_budget_option = click.option(
    "--omega-budget",
    type=click.FloatRange(min=0),
    help="Quality loss summed over the layers may not exceed it; by default that of "
    "uniform int8.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for a program to read."
)


def search_options(*, time_limit_s: float, gap: float, what: str) -> Decorator:
    """Returns what adds the limits of a search to a command.

    Args:
        time_limit_s: By default.
        gap: By default.
        what: Happens after the time.
    """
    return with_options(
        click.option(
            "--time-limit",
            type=click.FloatRange(min=0, min_open=True),
            default=time_limit_s,
            show_default=True,
            metavar="SECONDS",
            help=what,
        ),
        click.option(
            "--gap",
            type=click.FloatRange(min=0),
            default=gap,
            show_default=True,
            help="Relative gap at which a plan counts as the best.",
        ),
    )
