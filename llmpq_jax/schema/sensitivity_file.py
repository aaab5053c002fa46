"""Reads and writes sensitivity files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmpq_jax.errors import SpecError
from llmpq_jax.files import write_text
from llmpq_jax.schema.paths import from_file, to_file
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.toml import read_record, to_toml

_COMMENT = """\
Quality lost by each layer at each precision, in the unit below; 16 bits lose nothing.
Made by `llmpq-jax indicate`."""


def read_sensitivity(path: Path) -> Sensitivity:
    """Reads sensitivities; a relative path in them comes back as seen from here.

    Raises:
        SpecError: The file is missing or does not hold sensitivities.
    """
    sensitivity = read_record(Sensitivity, path, what="sensitivity")
    rounded = from_file(path, sensitivity.rounded)
    return replace(sensitivity, rounded=rounded)


def check_sensitivity(sensitivity: Sensitivity, fingerprint: str) -> None:
    """Refuses sensitivities of another model than the one of that fingerprint.

    Raises:
        SpecError: They are of another model.
    """
    if sensitivity.fingerprint != fingerprint:
        msg = f"sensitivities of {sensitivity.model}: found the model {sensitivity.fingerprint}, expected {fingerprint}: run `llmpq-jax indicate` for this model"
        raise SpecError(msg)


def write_sensitivity(path: Path, sensitivity: Sensitivity) -> None:
    """Writes sensitivities; a relative path is rewritten as seen from the file."""
    rounded = to_file(path, sensitivity.rounded)
    text = to_toml(replace(sensitivity, rounded=rounded), comment=_COMMENT)
    write_text(path, text)
