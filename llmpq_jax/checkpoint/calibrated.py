"""Weights that were rounded with care, kept to be served as they were judged.

A folder holds for each layer and width a file of integers and scales, `rounded.json`
says whose they are. That is written last, with the checksum of every file, so a folder
whose making was stopped is no such folder yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from llmpq_jax.checkpoint.safetensors_file import read_header, read_stored
from llmpq_jax.errors import CheckpointError
from llmpq_jax.files import write_bytes, write_text
from llmpq_jax.quant import QArray
from llmpq_jax.schema.precision import LowBits, Rounding

MANIFEST = "rounded.json"
Part = int | Literal["head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedFor:
    """Whose weights a folder holds.

    Attributes:
        fingerprint: Of the model.
        rounding: How they were rounded.
        group_size: Of int4, at most.
        text: SHA-256 of the text whose inputs were known.
    """

    fingerprint: str
    rounding: Rounding
    group_size: int
    text: str


def begin(folder: Path) -> None:
    """Makes a folder that cannot be read before it is finished anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)


def write_part(
    folder: Path, part: Part, bits: LowBits, weights: Mapping[str, QArray]
) -> None:
    """Writes one layer, or the head, at one width."""
    arrays: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        arrays[f"{name}.values"] = np.asarray(weight.values)
        arrays[f"{name}.scale"] = np.asarray(weight.scale)
    write_bytes(folder / _file_name(part, bits), save(arrays))


def finish(folder: Path, made_for: RoundedFor) -> None:
    """Says whose the files of a folder are; from then on it can be read."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }
    content = {"schema": 1, **asdict(made_for), "files": files}
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


class RoundedWeights:
    """A folder of rounded weights, checked when it is opened and as it is read."""

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        """Opens a folder.

        Args:
            folder: That `llmpq-jax indicate` filled.
            fingerprint: Of the model they must be of.

        Raises:
            CheckpointError: It holds no finished weights, or another model's.
        """
        self.folder = folder
        try:
            content: Any = json.loads((folder / MANIFEST).read_bytes())
            self.made_for = RoundedFor(
                **{
                    name: content[name]
                    for name in ("fingerprint", "rounding", "group_size", "text")
                }
            )
            self._digests: dict[str, str] = dict(content["files"])
        except (OSError, ValueError, KeyError, TypeError) as reason:
            msg = f"rounded weights {folder}: {MANIFEST} is missing or damaged ({reason}): expected what `llmpq-jax indicate --rounding` writes; run it again"
            raise CheckpointError(msg) from reason
        if self.made_for.fingerprint != fingerprint:
            msg = f"rounded weights {folder}: are of the model {self.made_for.fingerprint}, expected {fingerprint}: run `llmpq-jax indicate --rounding` for this model"
            raise CheckpointError(msg)

    def read(self, part: Part, bits: LowBits) -> dict[str, QArray]:
        """Reads one layer's matrices, or the head's, as they lie on the host.

        Raises:
            CheckpointError: They are missing, or not those that were written.
        """
        name = _file_name(part, bits)
        path = self.folder / name
        if name not in self._digests or not path.is_file():
            msg = f"rounded weights {self.folder}: {name} is missing: expected it there; run `llmpq-jax indicate --rounding` again"
            raise CheckpointError(msg)
        if hashlib.sha256(path.read_bytes()).hexdigest() != self._digests[name]:
            msg = f"rounded weights {path}: has another checksum than {MANIFEST} says: expected the file as it was written; run `llmpq-jax indicate --rounding` again"
            raise CheckpointError(msg)
        stored = read_header(path)
        names = {key.rpartition(".")[0] for key in stored}
        return {
            each: QArray(
                values=read_stored(stored[f"{each}.values"]),
                scale=read_stored(stored[f"{each}.scale"]),
                bits=bits,
            )
            for each in sorted(names)
        }


def _file_name(part: Part, bits: LowBits) -> str:
    where = part if part == "head" else f"layer-{part:03}"
    return f"{where}-int{bits}.safetensors"
