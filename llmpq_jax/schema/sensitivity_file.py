"""Reads and writes sensitivity files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmpq_jax.files import write_text
from llmpq_jax.schema.paths import from_file, to_file
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.toml import read_record, to_toml

_COMMENT = """\
Quality that each layer loses at each precision, in the unit below; 16 bits lose nothing.
Written by `llmpq-jax indicate`."""


def read_sensitivity(path: Path) -> Sensitivity:
    """Reads a sensitivity file, with its paths as paths from the working directory.

    Raises:
        SpecError: If the file is missing or does not hold sensitivities.
    """
    sensitivity = read_record(Sensitivity, path, what="sensitivity")
    rounded = from_file(path, sensitivity.rounded)
    return replace(sensitivity, rounded=rounded)


def write_sensitivity(path: Path, sensitivity: Sensitivity) -> None:
    """Writes a sensitivity file, with relative paths relative to its folder."""
    rounded = to_file(path, sensitivity.rounded)
    text = to_toml(replace(sensitivity, rounded=rounded), comment=_COMMENT)
    write_text(path, text)
