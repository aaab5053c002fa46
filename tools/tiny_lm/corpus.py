"""The texts of the tiny model: modules of the standard library, split into four sets.

Whole modules are held out in three disjoint splits. A training file that shares too
many shingles with a held-out module is dropped, so that the model is not evaluated on
text that it was trained on.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = ("calibration", "validation", "evaluation")
DOCUMENT_SEPARATOR = "<|endoftext|>"

# Tables and generated text do not train a language model, and are too easy to predict.
_LEFT_OUT_FOLDERS = {"encodings", "pydoc_data", "site-packages", "__pycache__", "data"}
_SPLIT_BYTES = 170_000
_SHINGLE_LINES = 3
_LARGEST_SHARED = 0.2


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Texts of the modules in each split.

    Attributes:
        held_out: Text of each held-out module by path, for each split.
        training: Text of each training module by path.
        dropped: Training candidates dropped as near-duplicates of held-out modules.
    """

    held_out: dict[str, dict[str, str]]
    training: dict[str, str]
    dropped: tuple[str, ...]


def split_standard_library() -> Corpus:
    """Reads the running Python's standard library and splits it by module."""
    modules = _read_modules(Path(sysconfig.get_paths()["stdlib"]))
    shingles = {path: _shingles(text) for path, text in modules.items()}
    held_out = _choose_held_out(modules, shingles)
    held_out_shingles = [
        shingles[path] for split in held_out.values() for path in split
    ]
    all_held_out = set[int]().union(*held_out_shingles)
    dropped = []
    training = {}
    for path, text in modules.items():
        if any(path in split for split in held_out.values()):
            continue
        own = shingles[path]
        is_copy = _share(own, all_held_out) > _LARGEST_SHARED or any(
            _share(one, own) > _LARGEST_SHARED for one in held_out_shingles
        )
        if is_copy:
            dropped.append(path)
        else:
            training[path] = text
    return Corpus(held_out=held_out, training=training, dropped=tuple(dropped))


def is_library(path: str) -> bool:
    """Returns whether a module is library code rather than a test."""
    return not any(part in {"test", "tests", "idle_test"} for part in Path(path).parts)


def _read_modules(root: Path) -> dict[str, str]:
    modules = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _LEFT_OUT_FOLDERS.intersection(relative.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # deliberately broken files among the tests
        if len(text) >= 200 and not _is_table(text):
            modules[relative.as_posix()] = text
    return modules


def _is_table(text: str) -> bool:
    """Returns whether a module is mostly digits and punctuation, as generated tables are."""
    letters = sum(character.isalpha() for character in text)
    return letters < 0.35 * len(text)


def _choose_held_out(
    modules: dict[str, str], shingles: dict[str, set[int]]
) -> dict[str, dict[str, str]]:
    candidates = [
        path
        for path, text in modules.items()
        if is_library(path) and 5_000 <= len(text.encode()) <= 60_000
    ]
    candidates.sort(key=lambda path: hashlib.sha256(path.encode()).digest())
    held_out: dict[str, dict[str, str]] = {}
    position = 0
    taken: set[int] = set()
    for split in HELD_OUT:
        chosen: dict[str, str] = {}
        size_bytes = 0
        while size_bytes < _SPLIT_BYTES:
            path = candidates[position]
            position += 1
            if _share(shingles[path], taken) > _LARGEST_SHARED:
                continue
            taken |= shingles[path]
            chosen[path] = modules[path]
            size_bytes += len(modules[path].encode())
        held_out[split] = chosen
    return held_out


def _shingles(text: str) -> set[int]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if len(line) > 3]
    return {
        hash(tuple(lines[start : start + _SHINGLE_LINES]))
        for start in range(len(lines) - _SHINGLE_LINES + 1)
    }


def _share(part: set[int], whole: set[int]) -> float:
    return len(part & whole) / len(part) if part else 0.0
