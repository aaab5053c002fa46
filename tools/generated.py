"""Writes a generated page, or checks that the one on disk is what would be written."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(render: Callable[[], str], *, page: str, module: str) -> None:
    """Serves `python -m MODULE [--check]` and leaves with its exit code.

    Args:
        render: Makes the page's text.
        page: Its path in the project.
        module: What to run, for messages.
    """
    sys.exit(main(render, ROOT / page, module=module, arguments=sys.argv[1:]))


def main(
    render: Callable[[], str], path: Path, *, module: str, arguments: Sequence[str]
) -> int:
    """Writes `path`, or with `--check` compares it; returns the exit code."""
    if list(arguments) not in ([], ["--check"]):
        print(f"usage: python -m {module} [--check]", file=sys.stderr)
        return 2
    text = render()
    if not arguments:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    if found == text:
        return 0
    lines = difflib.unified_diff(
        found.splitlines(), text.splitlines(), "on disk", "generated", lineterm="", n=1
    )
    print("\n".join(lines), file=sys.stderr)
    print(f"{path.name} is out of date: run python -m {module}", file=sys.stderr)
    return 1
