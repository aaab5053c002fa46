"""Writes docs/strategy-format.md from the records of the files.

Names, types and defaults come from the fields and meanings from the docstrings, so that
the page cannot disagree with the code. Run `python -m tools.write_format_docs`, with
`--check` to compare only.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, get_type_hints

from llmpq_jax.schema.field_types import file_key
from llmpq_jax.schema.toml import decode_record, to_toml
from tools import generated
from tools.format_examples import FILES, FileKind
from tools.type_names import record_in, type_name

PAGE = "docs/strategy-format.md"

INTRODUCTION = """\
# File formats

<!-- Written by tools/write_format_docs.py from llmpq_jax/schema; edit the docstrings there. -->

Four kinds of TOML file carry measurements, sensitivities and plans from one program to
the next. All may be written or edited by hand: every file is checked when it is read,
and an error names the file, the key, what was found and what was expected. Unknown
keys are errors. A key with a default may be left out. A number must not be written as a
text, nor an integer as a decimal.
"""


def render() -> str:
    """Returns the page: the tables of each kind of file, and an example."""
    contents = "\n".join(f"- [`{kind.file}`](#{_anchor(kind)})" for kind in FILES)
    return "\n".join([INTRODUCTION, contents, "", *map(_render_kind, FILES)])


def attributes(cls: type[Any]) -> dict[str, str]:
    """Returns the description of each field in a record's docstring, as one paragraph."""
    text = inspect.getdoc(cls) or ""
    block = text.partition("Attributes:\n")[2]
    meanings: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if match := re.match(r"    (\w+): (.*)", line):
            name = match.group(1)
            meanings[name] = match.group(2)
        elif line.strip():
            meanings[name] += " " + line.strip()
        else:
            break
    return meanings


def _render_kind(kind: FileKind) -> str:
    example = decode_record(kind.cls, kind.example, where=kind.file)
    return "\n".join(
        [
            f"## `{kind.file}`",
            "",
            kind.introduction,
            "",
            *_sections(kind.cls, prefix="", is_repeated=False),
            "### Example",
            "",
            "```toml",
            to_toml(example).rstrip(),
            "```",
            "",
        ]
    )


def _sections(cls: type[Any], *, prefix: str, is_repeated: bool) -> list[str]:
    """Returns the lines of a table for the record, and of one for each record inside it."""
    meanings = attributes(cls)
    hints = get_type_hints(cls, include_extras=True)
    title = "At the top" if not prefix else f"`[{prefix}]`"
    if is_repeated:
        title = f"`[[{prefix}]]`"
    summary = (inspect.getdoc(cls) or "").splitlines()[0]
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for field in dataclasses.fields(cls):
        key = file_key(cls, field.name)
        cells = (
            f"`{key}`",
            type_name(hints[field.name]),
            _default(field),
            meanings[field.name],
        )
        rows.append(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        )
        nested, is_many = record_in(hints[field.name])
        if nested is not None:
            path = f"{prefix}.{key}" if prefix else key
            inner += _sections(nested, prefix=path, is_repeated=is_many)
    return [f"### {title}", "", summary, "", *rows, "", *inner]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "absent"
    if dataclasses.is_dataclass(field.default):
        return "its defaults"
    if field.default == ():
        return "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    if isinstance(field.default, tuple):
        return f"`{list(field.default)}`"
    return f"`{field.default}`"


def _anchor(kind: FileKind) -> str:
    return kind.file.replace(".", "")


if __name__ == "__main__":
    generated.run(render, page=PAGE, module="tools.write_format_docs")
