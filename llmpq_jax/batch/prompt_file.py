"""A file of prompts: JSON lines, or plain text with one prompt on each line.

A file is read line by line and may be larger than memory. Every error names its line;
a bad line does not affect the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.line_reader import LineReader
from llmpq_jax.batch.prompt import BadLine, Line, Prompt, PromptDefaults, prompt_tokens
from llmpq_jax.batch.prompt_line import (
    PlainLine,
    make_prompt,
    parse_json_line,
    parse_request,
)
from llmpq_jax.batch.request_fields import short_repr
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.schema.workload import Workload, workload_of_lengths
from llmpq_jax.units import MIB

MAX_LINE_BYTES = 64 * MIB
# Names of lines without a custom_id.
_NUMBERED = re.compile(r"line-[0-9]+")


def make_prompts(
    texts: tuple[str, ...], defaults: PromptDefaults
) -> tuple[Prompt, ...]:
    """Makes prompts of single texts.

    Raises:
        RequestError: If a text is empty.
    """
    prompts = []
    for number, text in enumerate(texts, start=1):
        where = f"prompt {number}"
        line = Line(number=number, custom_id=f"prompt-{number}", where=where)
        try:
            request = PlainLine.parse({"prompt": text})
            prompts.append(make_prompt(request, defaults, line))
        except RequestError as reason:
            msg = f"{where}: {reason}"
            raise RequestError(msg) from reason
    return tuple(prompts)


def read_prompts(path: Path, defaults: PromptDefaults) -> tuple[Prompt, ...]:
    """Reads a whole file of prompts into memory.

    Raises:
        RequestError: If the file cannot be read, has no prompt, or has a bad line.
    """
    return tuple(refuse_bad_lines(PromptFile(path, defaults)))


def refuse_bad_lines(lines: Iterable[Prompt | BadLine]) -> Iterator[Prompt]:
    """Yields the prompts.

    Raises:
        RequestError: If a line is bad.
    """
    for line in lines:
        if isinstance(line, BadLine):
            raise RequestError(str(line))
        yield line


class PromptFile:
    """A file of prompts, .jsonl or .txt; each iteration reads it again."""

    def __init__(
        self,
        path: Path,
        defaults: PromptDefaults,
        *,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Checks the file's name; the defaults are for what lines leave open.

        `on_note` is called with a line if what a pipe brings is waited for.

        Raises:
            RequestError: If the name ends in neither .jsonl nor .txt.
        """
        if path.suffix not in {".jsonl", ".txt"}:
            msg = f"prompts {path}: ends in {path.suffix!r}: expected .jsonl (one JSON object a line) or .txt (one prompt a line)"
            raise RequestError(msg)
        self._path = path
        self._reader = LineReader(path, "prompts", on_note)
        self._defaults = defaults

    def __iter__(self) -> Generator[Prompt | BadLine, None, None]:
        """Reads the file line by line; empty lines are skipped.

        Raises:
            RequestError: If the file cannot be read, has no line, or is not the same as
                when it was read before.
        """
        is_empty = True
        with closing(IdIndex()) as seen:
            for number, line in enumerate(self._reader.lines(MAX_LINE_BYTES), start=1):
                if line.strip():
                    is_empty = False
                    yield self._read(number, line, seen)
        if is_empty:
            msg = f"prompts {self._path}: holds no prompt: expected one on each line"
            raise RequestError(msg)

    def _read(self, number: int, content: bytes, seen: IdIndex) -> Prompt | BadLine:
        where = f"prompts {self._path} line {number}"
        # The name of a line whose own is missing, invalid or taken.
        line = Line(number=number, custom_id=f"line-{number}", where=where)
        try:
            values = self._parse(content)
            own_id = values.get("custom_id")
            if own_id is not None and own_id != line.custom_id:
                line = replace(line, custom_id=_checked_id(own_id, number, seen))
            return make_prompt(parse_request(values), self._defaults, line)
        except RequestError as reason:
            return BadLine.of(line, reason)

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        if len(line) > MAX_LINE_BYTES:
            msg = f"is longer than {MAX_LINE_BYTES // MIB} MiB: expected one prompt"
            raise RequestError(msg)
        try:
            text = line.decode()
        except UnicodeDecodeError as reason:
            msg = f"is not UTF-8 text (byte {reason.start}): save it as UTF-8"
            raise RequestError(msg) from reason
        if self._path.suffix == ".txt":
            return {"prompt": text}
        return parse_json_line(text)


def workload_of_prompts(
    model: Path,
    prompts: Path,
    *,
    batch: int | None = None,
    new_tokens: int | None = None,
    output_length_fraction: float | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_prompt: Callable[[], None] = lambda: None,
) -> Workload:
    """Returns the workload of a file of prompts, read as `generate` does and tokenised.

    By default all prompts are served at a time. Prompts that give no maximum of new
    tokens get the largest one of the file and of `new_tokens`, as in `generate`.
    `on_note` is called with a line if what a pipe brings is waited for, `on_prompt` after
    each prompt.

    Raises:
        RequestError: If the file has a bad line, or a prompt gives no maximum of new
            tokens and `new_tokens` is absent.
        CheckpointError: If there is no tokenizer.
    """
    tokenizer = Tokenizer.load(model)
    max_tokens = read_architecture(model).max_positions
    lengths: list[tuple[int, int | None]] = []
    for prompt in refuse_bad_lines(
        PromptFile(prompts, PromptDefaults(), on_note=on_note)
    ):
        if prompt.max_new_tokens is None and new_tokens is None:
            msg = f"{prompt.where}: says no max_new_tokens: expected it there, or --new-tokens for such prompts"
            raise RequestError(msg)
        try:
            token_ids_of_each = prompt_tokens(prompt, tokenizer, max_tokens=max_tokens)
        except RequestError as reason:
            msg = f"{prompt.where}: {reason}"
            raise RequestError(msg) from reason
        if not all(token_ids_of_each):
            msg = f"{prompt.where}: has no token by the tokenizer of {model}: expected at least one; check that the folder holds the model's tokenizer.json"
            raise RequestError(msg)
        lengths += [
            (len(token_ids), prompt.max_new_tokens)
            for token_ids in token_ids_of_each
            for _ in range(prompt.num_choices)
        ]
        on_prompt()
    maximum = max([own or 0 for _, own in lengths] + [new_tokens or 0])
    return workload_of_lengths(
        [(num_tokens, own or maximum) for num_tokens, own in lengths],
        batch=batch,
        output_length_fraction=output_length_fraction,
    )


def _checked_id(custom_id: Any, number: int, seen: IdIndex) -> str:
    if not isinstance(custom_id, str):
        msg = f"custom_id: found {short_repr(custom_id)}, expected a text"
        raise RequestError(msg)
    if not custom_id:
        msg = "custom_id is empty: expected at least one character"
        raise RequestError(msg)
    if _NUMBERED.fullmatch(custom_id):
        msg = f"custom_id {custom_id!r} is what line {custom_id[5:]} is called if it has none: expected another name"
        raise RequestError(msg)
    first = seen.add(custom_id, number)
    if first is not None:
        msg = f"custom_id {custom_id!r} is that of line {first} too: expected each once, because results are identified by it"
        raise RequestError(msg)
    return custom_id
