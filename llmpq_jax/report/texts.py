"""Generated text, safe to show in a terminal."""

from __future__ import annotations


def continued_text(prompt: str, continuation: str) -> str:
    """Joins a prompt and its continuation, indented."""
    lines = printable(prompt + continuation).rstrip().split("\n")
    return "\n".join(f"  {line}".rstrip() for line in lines)


def printable(text: str) -> str:
    """Escapes control characters, so that generated text cannot control a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
