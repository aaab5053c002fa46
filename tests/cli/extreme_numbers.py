"""Types commands on files with one number replaced, in a process of little memory.

    python -m tests.cli.extreme_numbers FOLDER STEP

The folder holds good files. Every STEP-th case is typed; those that end in anything but a
result or one line are printed as JSON.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomlkit
from click.testing import CliRunner, Result

from llmpq_jax.cli import main

# Of addresses: code, libraries and their thread pools are a good part of it.
MAX_BYTES = 8 << 30
VALUES = (
    *("-1", "0", "1", "0.5", "1" + 30 * "0", "1" + 5000 * "0", "1e-300", "1e300"),
    *("1e400", "nan", "inf", "-inf", '"text"', "null", "true", "[]", "[1]"),
    40 * "[" + "1" + 40 * "]",
)
_MARK = "replaced by a value"
_SIZES = ("--batch", "2", "--prompt-length", "8", "--new-tokens", "8")


def type_cases(folder: Path, step: int) -> list[dict[str, str]]:
    """Returns the cases that did not end as they should."""
    found = []
    for name, where, value, text in itertools.islice(cases(folder), 0, None, step):
        path = folder / name
        good = path.read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        try:
            result = CliRunner().invoke(main, words(folder, name))
        finally:
            path.write_text(good, encoding="utf-8")
        if wrong := complaint(result):
            found.append({"file": name, "at": where, "value": value, "found": wrong})
    return found


def cases(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yields file, place, value and the file's text with this value."""
    for name in ("cluster.toml", "measurements.toml", "sensitivity.toml"):
        yield from _of_file(folder, name)
    yield from _of_file(folder, "strategy.toml")
    yield from _of_file(folder, "model/config.json")


def _of_file(folder: Path, name: str) -> Iterator[tuple[str, str, str, str]]:
    text = (folder / name).read_text(encoding="utf-8")
    is_json = name.endswith(".json")
    data: Any = json.loads(text) if is_json else tomllib.loads(text)
    for path in list(_numbers(data)):
        good = _exchange(data, path, _MARK)
        marked = json.dumps(data) if is_json else tomlkit.dumps(data)
        _exchange(data, path, good)
        for value in VALUES:
            yield (
                name,
                ".".join(map(str, path)),
                value[:40],
                marked.replace(f'"{_MARK}"', value),
            )


def _numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the paths of numbers; of tables and arrays of a kind those of the first."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(each, (*path, key))
    elif isinstance(value, list) and value:
        yield from _numbers(value[0], (*path, 0))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def _exchange(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    for key in path[:-1]:
        data = data[key]
    before, data[path[-1]] = data[path[-1]], value
    return before


def words(folder: Path, name: str) -> list[str]:
    """Returns a command that reads a file and all that it needs of the others."""
    sources = [
        *("--model", f"{folder}/model", "--cluster", f"{folder}/cluster.toml"),
        *("--measurements", f"{folder}/measurements.toml"),
        *("--sensitivity", f"{folder}/sensitivity.toml"),
    ]
    if name == "strategy.toml":
        command = ["explain", *sources, "--strategy", f"{folder}/strategy.toml"]
        return [*command, "--time-limit", "1"]
    out = ["--out", f"{folder}/out.toml", "--time-limit", "2"]
    return ["solve", *sources, *_SIZES, *out]


def complaint(result: Result) -> str:
    """Returns what is wrong with how a command ended, or nothing."""
    errors = [line for line in result.stderr.splitlines() if "rror: " in line[:8]]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return repr(result.exception)[:300]
    if result.exit_code and len(errors) != 1:
        return result.stderr[-300:]
    return "a traceback" if "Traceback" in result.stderr else ""


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    print(json.dumps(type_cases(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
