"""Types of options that name files and folders, and what no output may overwrite.

Every command compares all its outputs with all its inputs and with each other before its
function is called, and checks that the outputs can be written.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import click

from llmpq_jax.errors import RequestError
from llmpq_jax.files import check_folder, check_writable, is_stream

# What is read of a checkpoint's folder.
_CHECKPOINT_FILES = (
    "*config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "rounded.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
# Returns further files that a file names, or that are written with it.
Others = Callable[[Path], Iterable[Path]]


def _no_others(_: Path) -> Iterable[Path]:
    return ()


class PathOption(click.Path):
    """Type of an option that names a file or a folder.

    Attributes:
        others: Function of the typed path that returns further files that the command
            reads or writes because of it.
    """

    def __init__(
        self,
        *,
        others: Others = _no_others,
        path_type: type[Any] = Path,
        **settings: Any,
    ) -> None:
        """Takes what is to be checked of a path besides arguments of `click.Path`."""
        super().__init__(path_type=path_type, **settings)
        self.others = others

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Returns the usual placeholder of such paths."""
        return "FILE"

    def paths(self, path: Path) -> tuple[Path, ...]:
        """Returns the typed path and those that follow from it."""
        return (path, *self.others(path))

    def check(self, path: Path) -> None:
        """Refuses a path that the command cannot use."""


class InputPath(PathOption):
    """A file or a checkpoint's folder that is read."""


class OutputFile(PathOption):
    """A file that is written; what cannot be one is refused before any work."""

    def __init__(self, *, others: Others = _no_others, is_read: bool = False) -> None:
        """Takes whether a file that is there is read too, which no stream may be."""
        super().__init__(others=others, dir_okay=False, writable=True)
        self.is_read = is_read

    def paths(self, path: Path) -> tuple[Path, ...]:
        """Returns the typed path and those next to it; there are none next to a stream."""
        return (path,) if is_stream(path) else super().paths(path)

    def check(self, path: Path) -> None:
        """Refuses a file that cannot be written."""
        if self.is_read and is_stream(path):
            msg = f"output {path}: is a device or a pipe: expected a file, because it is read too; name one"
            raise RequestError(msg)
        for each in self.paths(path):
            check_writable(each)


class OutputFolder(PathOption):
    """A folder that is written to."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Returns the usual placeholder of folders."""
        return "DIR"

    def check(self, path: Path) -> None:
        """Refuses a folder that cannot be made or written to."""
        check_folder(path)


class CacheFolder(OutputFolder):
    """A folder that is written to if that is possible."""

    def check(self, path: Path) -> None:
        """Refuses nothing: the command does without the cache."""


def named_by_strategy(path: Path) -> Iterator[Path]:
    """Yields the checkpoint, rounded weights and sources that a strategy names."""
    content = _tables(path)
    model, request = content.get("model"), content.get("request")
    sources = request.get("sources") if isinstance(request, dict) else None
    for table, keys in (
        (model, ("path", "rounded")),
        (sources, ("cluster", "measurements", "sensitivity")),
    ):
        if isinstance(table, dict):
            for key in keys:
                if isinstance(named := table.get(key), str):
                    yield path.parent / named


def named_by_sensitivity(path: Path) -> Iterator[Path]:
    """Yields the folder of rounded weights that a sensitivity file names."""
    if isinstance(named := _tables(path).get("rounded"), str):
        yield path.parent / named


def _tables(path: Path) -> dict[str, Any]:
    """Returns the content of a file; nothing of one that the command will refuse."""
    with suppress(OSError, ValueError):
        if path.is_file():
            return tomllib.loads(path.read_text(encoding="utf-8"))
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claim:
    """A file or folder that an option has read or written.

    Attributes:
        option: Name of the option as typed.
        typed: Path that was typed.
        path: Path of the file, the typed one or another that follows from it.
    """

    option: str
    typed: Path
    path: Path

    def __str__(self) -> str:
        what = "the path" if self.path == self.typed else f"{self.path}"
        return f"{what} of {self.option} {self.typed}"


def check_paths(command: click.Command, values: dict[str, Any]) -> None:
    """Refuses outputs of a command that would overwrite an input or another output.

    Args:
        command: Command whose options have the paths.
        values: Values of the options by their names.

    Raises:
        RequestError: An output would overwrite what is read or written too, or cannot
            be written.
    """
    typed = list(_typed_paths(command, values))
    outputs = [each for each in typed if not isinstance(each[1], InputPath)]
    if not outputs:
        return
    written = [claim for each in outputs for claim in _written(*each)]
    read = [claim for each in typed for claim in _read(*each)]
    for output in written:
        for source in read:
            if output.option != source.option and _is_same(output.path, source.path):
                _refuse(output, source, "read")
    for one, other in combinations(written, 2):
        if one.option != other.option and _is_same(one.path, other.path):
            _refuse(other, one, "written too")
    for _, type_, path in outputs:
        type_.check(path)


def _refuse(output: _Claim, other: _Claim, what: str) -> None:
    written = "" if output.path == output.typed else f"{output.path} "
    msg = f"{output.option} {output.typed}: {written}is {other}, which is {what}: expected a path of its own; name another one"
    raise RequestError(msg)


def _typed_paths(
    command: click.Command, values: dict[str, Any]
) -> Iterator[tuple[str, PathOption, Path]]:
    """Yields name, type and value of each option that names a path."""
    for option in command.params:
        value = values.get(str(option.name))
        if isinstance(option.type, PathOption) and value is not None:
            for each in value if isinstance(value, tuple) else (value,):
                yield option.opts[0], option.type, Path(each)


def _written(option: str, type_: PathOption, path: Path) -> Iterator[_Claim]:
    for each in type_.paths(path):
        yield _Claim(option=option, typed=path, path=each)


def _read(option: str, type_: PathOption, path: Path) -> Iterator[_Claim]:
    if not isinstance(type_, InputPath):
        return
    for each in type_.paths(path):
        yield _Claim(option=option, typed=path, path=each)
        for pattern in _CHECKPOINT_FILES if each.is_dir() else ():
            for file in each.glob(pattern):
                yield _Claim(option=option, typed=path, path=file)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, by links too; a device may be used twice."""
    try:
        found = one.stat()
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
    if stat.S_ISCHR(found.st_mode):
        return False
    with suppress(OSError):
        return os.path.samestat(found, other.stat())
    return False
