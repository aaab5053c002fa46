"""Prompts as people write them: JSON lines, or plain text with one on each line.

A file is read line by line and may be larger than memory. Every complaint names its
line; a bad line says nothing about the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.prompt import BadLine, Choices, Prompt
from llmpq_jax.batch.prompt_line import (
    ParsedLine,
    parse_line,
    prompt_of_line,
    prompt_of_values,
)
from llmpq_jax.errors import RequestError
from llmpq_jax.units import MIB

_MAX_LINE_BYTES = 64 * MIB
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What lines without a name of their own are called.
_NUMBERED = re.compile(r"line-[0-9]+")


def prompts_of(texts: tuple[str, ...], choices: Choices) -> tuple[Prompt, ...]:
    """Makes prompts of texts given one by one.

    Raises:
        RequestError: One of them is empty.
    """
    prompts = []
    for number, text in enumerate(texts, start=1):
        where = f"prompt {number}"
        try:
            prompt = prompt_of_values(
                {"prompt": text},
                choices,
                number=number,
                custom_id=f"prompt-{number}",
                where=where,
            )
        except RequestError as reason:
            msg = f"{where}: {reason}"
            raise RequestError(msg) from reason
        prompts.append(prompt)
    return tuple(prompts)


def read_prompts(path: Path, choices: Choices) -> tuple[Prompt, ...]:
    """Reads a whole file of prompts that must all be good.

    Raises:
        RequestError: The file cannot be read, holds no prompt, or a line is not one.
    """
    return tuple(only_good(PromptFile(path, choices)))


def only_good(lines: Iterable[Prompt | BadLine]) -> Iterator[Prompt]:
    """Passes prompts on.

    Raises:
        RequestError: A line is bad.
    """
    for line in lines:
        if isinstance(line, BadLine):
            raise RequestError(str(line))
        yield line


class PromptFile:
    """A file of prompts, .jsonl or .txt, to be read any number of times."""

    def __init__(self, path: Path, choices: Choices) -> None:
        """Names the file.

        Args:
            path: Of the file.
            choices: For what lines do not say.

        Raises:
            RequestError: Its name ends in something else.
        """
        if path.suffix not in {".jsonl", ".txt"}:
            msg = f"prompts {path}: ends in {path.suffix!r}: expected .jsonl (one JSON object a line) or .txt (one prompt a line)"
            raise RequestError(msg)
        self._path = path
        self._choices = choices

    def __iter__(self) -> Iterator[Prompt | BadLine]:
        """Reads it line by line; empty ones are passed over.

        Raises:
            RequestError: The file cannot be read, or holds no line.
        """
        is_empty = True
        try:
            with self._path.open("rb") as file, closing(IdIndex()) as seen:
                for number, line in enumerate(_raw_lines(file), start=1):
                    if line.strip():
                        is_empty = False
                        yield self._read(number, line, seen)
        except OSError as reason:
            msg = f"prompts {self._path}: cannot be read ({reason.strerror or reason}): expected a .jsonl or .txt file"
            raise RequestError(msg) from reason
        if is_empty:
            msg = f"prompts {self._path}: holds no prompt: expected one on each line"
            raise RequestError(msg)

    def _read(self, number: int, line: bytes, seen: IdIndex) -> Prompt | BadLine:
        where = f"prompts {self._path} line {number}"
        # That of a line whose own is missing, or another's.
        custom_id = f"line-{number}"
        try:
            parsed = self._parse(line)
            own_id = parsed.custom_id
            if own_id is not None and own_id != custom_id:
                _check_id(own_id, number, seen)
                custom_id = own_id
            return prompt_of_line(
                parsed,
                self._choices,
                number=number,
                custom_id=custom_id,
                where=where,
            )
        except RequestError as reason:
            return BadLine.of(
                number=number, custom_id=custom_id, where=where, error=reason
            )

    def _parse(self, line: bytes) -> ParsedLine:
        if len(line) > _MAX_LINE_BYTES:
            msg = f"is longer than {_MAX_LINE_BYTES // MIB} MiB: expected one prompt"
            raise RequestError(msg)
        try:
            text = line.decode()
        except UnicodeDecodeError as reason:
            msg = f"is not UTF-8 text (byte {reason.start}): save it as UTF-8"
            raise RequestError(msg) from reason
        if self._path.suffix == ".txt":
            return ParsedLine(values={"prompt": text})
        return parse_line(text)


def _check_id(custom_id: str, number: int, seen: IdIndex) -> None:
    if not custom_id:
        msg = "custom_id is empty: expected at least one character"
        raise RequestError(msg)
    if _NUMBERED.fullmatch(custom_id):
        msg = f"custom_id {custom_id!r} is what line {custom_id[5:]} is called if it has none: expected another name"
        raise RequestError(msg)
    first = seen.add(custom_id, number)
    if first is not None:
        msg = f"custom_id {custom_id!r} is that of line {first} too: expected each once, results are told apart by it"
        raise RequestError(msg)


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields lines without their ends; of one that is too long, one byte too many.

    A line ends at a line feed alone: other characters that end lines elsewhere may stand
    inside JSON texts.
    """
    if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
        file.seek(0)
    while line := file.readline(_MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > _MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE_BYTES + 1)
        yield line.removesuffix(b"\n").removesuffix(b"\r")
