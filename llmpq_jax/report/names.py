"""Short texts of stages, layers, bits and gaps, and generated texts made safe to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from llmpq_jax.schema.strategy import Stage


def devices_text(stage: Stage) -> str:
    """Returns a stage's devices: "node0/cpu:2 + node0/cpu:3"."""
    return " + ".join(stage.devices)


def bits_text(bits: Sequence[int]) -> str:
    """Returns bits compactly, in layer order: "16 8×5 4×2"."""
    runs = [(value, len(list(run))) for value, run in groupby(bits)]
    return " ".join(f"{value}×{n}" if n > 1 else str(value) for value, n in runs)


def layers_text(stage: Stage) -> str:
    """Returns the first and the last layer of a stage: "0–6"."""
    first, end = stage.layers
    return str(first) if end == first + 1 else f"{first}–{end - 1}"


def gap_text(gap: float) -> str:
    """Returns a proven gap in percent, rounded up: "0.01%"."""
    if math.isinf(gap):
        return "inf%"
    # A gap that is a whole hundredth of a percent but for rounding is one.
    return f"{math.ceil(gap * 1e4 * (1 - 1e-6)) / 1e4:.2%}"


def continued_text(prompt: str, continuation: str) -> str:
    """Joins a prompt and its continuation, indented."""
    lines = printable(prompt + continuation).rstrip().split("\n")
    return "\n".join(f"  {line}".rstrip() for line in lines)


def printable(text: str) -> str:
    """Escapes control characters, so that generated text cannot control a terminal."""
    return "".join(
        char
        if char.isprintable() or char in "\n\t"
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
