"""The project's prose: plain words, and docstring entries that name what they describe."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LANGUAGE = tomllib.loads((ROOT / "tests/language.toml").read_text(encoding="utf-8"))
PACKAGES = sorted(path.parent.name for path in ROOT.glob("llmpq_jax/*/__init__.py"))
SOURCES = sorted(ROOT.glob("llmpq_jax/**/*.py"))
TEXTS = sorted(
    path
    for folder in ("llmpq_jax", "docs", "tools")
    for ending in ("*.py", "*.md", "*.toml", "*.h", "*.cc")
    for path in ROOT.glob(f"{folder}/**/{ending}")
)
# An entry that begins with one of these names no thing.
WITHOUT_NOUN = {"of", "whose", "likewise", "that", "as"}
MIN_WORDS = 3


def is_excepted(path: Path) -> bool:
    name = str(path.relative_to(ROOT))
    return any(
        name == place or name.startswith(f"{place}/")
        for place in LANGUAGE["exceptions"]
    )


def test_exceptions_are_of_files_that_are_there():
    assert [p for p in LANGUAGE["exceptions"] if not (ROOT / p).exists()] == []


@pytest.mark.parametrize(("word", "better"), LANGUAGE["words"].items())
def test_coined_and_archaic_words_are_not_used(word, better):
    pattern = re.compile(word)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        if not is_excepted(path)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == [], f"say instead: {better}"


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Entries of `Args:` and `Attributes:`, each with its whole text."""
    for block in re.findall(
        r"^(?:Args|Attributes):\n((?:(?:    .*)?\n?)*)", docstring, re.MULTILINE
    ):
        for name, text in re.findall(
            r"^    (\*{0,2}\w+): ((?:.*\n?)(?:^ {5,}.*\n?|^\n(?= {8}))*)",
            block,
            re.MULTILINE,
        ):
            yield name, " ".join(text.split())


def documented(path: Path) -> Iterator[tuple[str, str, str]]:
    """Owner, name and text of every docstring entry of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for name, text in entries(ast.get_docstring(node) or ""):
                yield node.name, name, text


def first_word(text: str) -> str:
    without_axes = re.sub(r"^(\[[^\]]*\][,:]?\s*)+", "", text)
    found = re.match(r"[\w'-]+", without_axes)
    return found.group().lower() if found else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_an_entry_of_a_docstring_names_what_it_describes(package):
    found = [
        f"{path.relative_to(ROOT)}: {owner}.{name}: {text}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[1] == package
        for owner, name, text in documented(path)
        if first_word(text) in WITHOUT_NOUN or len(text.split()) < MIN_WORDS
    ]
    assert found == []


def test_the_check_of_entries_reads_them():
    """A check that finds no entry would find no bad one either."""
    read = list(
        entries("Does it.\n\nArgs:\n    one: Of it,\n        all.\n    two: B.\n")
    )
    assert read == [("one", "Of it, all."), ("two", "B.")]
    assert sum(1 for path in SOURCES for _ in documented(path)) > 1000


FUNCTION_LINES = 70
FUNCTION_PARAMETERS = 10


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short_and_take_few_parameters(package):
    found = []
    for path in ROOT.glob(f"llmpq_jax/{package}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_command = any("command" in ast.unparse(d) for d in node.decorator_list)
            arguments = node.args
            named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
            num_parameters = len(named)
            num_lines = (node.end_lineno or 0) - node.lineno + 1
            if num_lines > FUNCTION_LINES or (
                num_parameters > FUNCTION_PARAMETERS and not is_command
            ):
                where = f"{path.relative_to(ROOT)}: {node.name}"
                found.append(f"{where}: {num_lines} lines, {num_parameters} parameters")
    assert found == []


def test_no_file_name_is_in_more_than_two_folders():
    folders: dict[str, set[Path]] = {}
    for path in SOURCES:
        if path.name != "__init__.py":
            folders.setdefault(path.name, set()).add(path.parent)
    assert {name for name, where in folders.items() if len(where) > 2} == set()
