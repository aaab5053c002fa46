"""Intermediate arrays and results on disk, from which an interrupted run is resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_jax.files import write_text

_STATE = "state.json"


class WorkFolder:
    """A folder of one computation, identified by texts that nothing else has.

    Every file is written under another name and renamed, so no file is incomplete. Arrays
    are memory-mapped, because the text's hidden states may be larger than memory.
    """

    def __init__(self, folder: Path, *identity: str) -> None:
        """Opens the folder, and deletes what another computation left in it."""
        self.folder = folder
        self._key = hashlib.sha256("\n".join(identity).encode()).hexdigest()
        if self._read().get("key") != self._key:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> dict[str, Any]:
        """State last saved with `save_state`; empty if there is none."""
        return self._read().get("state", {})

    def save_state(self, state: dict[str, Any]) -> None:
        """Writes progress and results so far, as JSON."""
        text = json.dumps({"key": self._key, "state": state})
        write_text(self.folder / _STATE, text + "\n")

    def save(self, name: str, array: np.ndarray) -> None:
        """Writes an array."""
        path = self._path(name)
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        partial.replace(path)

    def load(self, name: str) -> np.ndarray:
        """Returns a memory-mapped array."""
        return np.load(self._path(name), mmap_mode="r", allow_pickle=False)

    def delete(self, name: str) -> None:
        """Deletes an array if it exists."""
        self._path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes the folder, after the computation is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / _STATE).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
