"""Bytes and seconds as text with units, and numbers with fewer digits."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_BYTE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1 << 40,
}


def parse_bytes(text: str) -> int:
    """Returns the bytes of a text such as "24 GiB", "12MB" or "512".

    Raises:
        ValueError: If the text is not a number, optionally followed by a unit of bytes.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    unit = (match.group(2) or "b").lower() if match else ""
    if match is None or unit not in _BYTE_UNITS:
        units = ", ".join(("B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"))
        msg = f"{text!r} is not a size: write a number and one of {units}"
        raise ValueError(msg)
    size = float(match.group(1)) * _BYTE_UNITS[unit]
    if size == float("inf"):
        msg = f"a size of {len(match.group(1))} digits: expected fewer"
        raise ValueError(msg)
    return round(size)


def format_bytes(num_bytes: float) -> str:
    """Returns bytes as text with three significant digits and a binary unit."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{_three_digits(size)} {unit}"
        size /= 1024
    return f"{_three_digits(size)} TiB"


def format_seconds(seconds: float) -> str:
    """Returns a duration as text with three significant digits, in µs to minutes."""
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def format_loss(omega: float) -> str:
    """Returns a quality loss to four digits, rounded up: as a budget, it is enough."""
    return f"{round_up(omega, 4):g}"


def counted(number: int, what: str) -> str:
    """Returns a number of things: "1 prompt", "5,000 prompts"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def round_up(value: float, digits: int) -> float:
    """Returns the least number of this many significant digits that is not below a value."""
    return _rounded(value, digits, ROUND_CEILING)


def round_down(value: float, digits: int) -> float:
    """Returns the largest number of this many significant digits that is not above a value."""
    return _rounded(value, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, direction: str) -> float:
    # From the shortest decimal that is read as this float, so that a number with as few
    # digits stays as it is; reading a decimal keeps the order.
    context = Context(prec=digits, rounding=direction)
    return float(context.create_decimal(repr(float(value))))


def _three_digits(value: float) -> str:
    # From 1000 on, the format "g" would use an exponent.
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
