"""Reads pins as they are typed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmpq_jax.planner.constraints import BitsPin, LayerPin, Pin, Use
from llmpq_jax.schema.precision import Bits

_BITS: dict[str, Bits] = {"4": 4, "8": 8, "16": 16}


def read_pins(*, layers: Sequence[str], bits: Sequence[str]) -> tuple[Pin, ...]:
    """Reads texts such as 0:12=node0/cuda:0 and 0:2=16.

    Raises:
        ValueError: One is something else.
    """
    found: list[Pin] = []
    for text in layers:
        first, end, device = _parts("--pin-layers", text, "DEVICE", "0:12=node0/cuda:0")
        found.append(LayerPin(first=first, end=end, device=device))
    for text in bits:
        first, end, width = _parts("--pin-bits", text, "BITS", "0:2=16")
        if width not in _BITS:
            msg = f"--pin-bits {text}: found {width} bits, expected one of {sorted(_BITS.values())}"
            raise ValueError(msg)
        found.append(BitsPin(first=first, end=end, bits=_BITS[width]))
    return tuple(found)


def read_uses(*, always: Sequence[str], never: Sequence[str]) -> dict[str, Use]:
    """Reads what devices are to be used, and left idle.

    Raises:
        ValueError: One is to be both.
    """
    for name in always:
        if name in never:
            msg = f"--use {name} and --leave-idle {name}: expected one or the other"
            raise ValueError(msg)
    found: dict[str, Use] = {}
    for name in always:
        found[name] = "always"
    for name in never:
        found[name] = "never"
    return found


def _parts(option: str, text: str, what: str, example: str) -> tuple[int, int, str]:
    match = re.fullmatch(r"(\d+):(\d+)=(.+)", text)
    if match is None:
        msg = f"{option} {text!r}: expected FIRST:END={what}, such as {example}"
        raise ValueError(msg)
    return int(match[1]), int(match[2]), match[3]
