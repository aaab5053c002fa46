"""Calibrated weights: rounded for the inputs of a text, and served as they were evaluated.

A folder has a file of integers and scales for each layer and bit width, and a manifest,
`rounded.json`, that says how they were made. The manifest is written last, with the
checksum of every file: a folder without one is incomplete and is not read.
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
LayerOrHead = int | Literal["head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How a folder's weights were made.

    Attributes:
        fingerprint: Fingerprint of the model.
        rounding: Method of rounding, see `quant.rounding`.
        group_size: Number of rows of an int4 group, at most.
        text: SHA-256 of the calibration text.
    """

    fingerprint: str
    rounding: Rounding
    group_size: int
    text: str


def begin(folder: Path) -> None:
    """Marks a folder as incomplete until `finish` is called; creates it if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)


def write_matrices(
    folder: Path, which: LayerOrHead, bits: LowBits, weights: Mapping[str, QArray]
) -> None:
    """Writes the matrices of one layer, or of the head, at one bit width."""
    arrays: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        arrays[f"{name}.values"] = np.asarray(weight.values)
        arrays[f"{name}.scale"] = np.asarray(weight.scale)
    write_bytes(folder / _file_name(which, bits), save(arrays))


def finish(folder: Path, calibration: Calibration) -> None:
    """Writes the manifest, from which on the folder can be read."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }
    content = {"schema": 1, **asdict(calibration), "files": files}
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


class CalibratedWeights:
    """A folder of calibrated weights, checked when it is opened and as it is read.

    Attributes:
        folder: Path of the folder.
        calibration: Record of how its weights were made.
    """

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        """Opens a folder that `llmpq-jax indicate --rounding` wrote for a model.

        Raises:
            CheckpointError: The folder is incomplete or damaged, or is another model's.
        """
        self.folder = folder
        try:
            content: Any = json.loads((folder / MANIFEST).read_bytes())
            self.calibration = Calibration(
                **{
                    name: content[name]
                    for name in ("fingerprint", "rounding", "group_size", "text")
                }
            )
            self._digests: dict[str, str] = dict(content["files"])
        except (
            *(OSError, ValueError, KeyError, TypeError),
            RecursionError,
        ) as reason:
            msg = f"rounded weights {folder}: {MANIFEST} is missing or damaged ({reason}): expected what `llmpq-jax indicate --rounding` writes; run it again"
            raise CheckpointError(msg) from reason
        if self.calibration.fingerprint != fingerprint:
            msg = f"rounded weights {folder}: are of the model {self.calibration.fingerprint}, expected {fingerprint}: run `llmpq-jax indicate --rounding` for this model"
            raise CheckpointError(msg)

    def read(self, which: LayerOrHead, bits: LowBits) -> dict[str, QArray]:
        """Reads one layer's matrices, or the head's, into host memory.

        Raises:
            CheckpointError: They are missing, or their file has changed.
        """
        name = _file_name(which, bits)
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


def _file_name(which: LayerOrHead, bits: LowBits) -> str:
    where = which if which == "head" else f"layer-{which:03}"
    return f"{where}-int{bits}.safetensors"
