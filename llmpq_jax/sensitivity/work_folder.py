"""Arrays and results of long work, on disk, so that it can go on after a stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from llmpq_jax.files import write_text

_STATE = "state.json"


class WorkFolder:
    """A folder that belongs to one piece of work, known by its key.

    Every file is written aside and renamed, so whatever is there is whole. Arrays are
    read without being loaded: the text's hidden states may outgrow memory.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Opens the folder; what another piece of work left in it is deleted."""
        self.folder = folder
        self._key = key
        if self._read().get("key") != key:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> dict[str, Any]:
        """What was said last with `save_state`; empty at the beginning."""
        return self._read().get("state", {})

    def save_state(self, state: dict[str, Any]) -> None:
        """Keeps where the work is and what came of it so far, as JSON."""
        text = json.dumps({"key": self._key, "state": state})
        write_text(self.folder / _STATE, text + "\n")

    def save(self, name: str, array: np.ndarray) -> None:
        """Keeps an array."""
        path = self._path(name)
        aside = path.with_suffix(".part")
        with aside.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        aside.replace(path)

    def load(self, name: str) -> np.ndarray:
        """Returns an array as it lies on disk."""
        return np.load(self._path(name), mmap_mode="r", allow_pickle=False)

    def delete(self, name: str) -> None:
        """Gives an array's room back, if it is there."""
        self._path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes the folder; the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / _STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
