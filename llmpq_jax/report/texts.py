"""What a model wrote, safe to show in a terminal."""

from __future__ import annotations


def continued_text(prompt: str, continuation: str) -> str:
    """Joins a prompt and its continuation, on one left margin."""
    lines = printable(prompt + continuation).rstrip().split("\n")
    return "\n".join(f"  {line}".rstrip() for line in lines)


def printable(text: str) -> str:
    """Writes control characters out, so that a model's text cannot steer a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
