"""Keeps a layer's rounded weights as a device serves them, so that a restart is quick.

A file holds one layer, or the head, and is named by everything that decides its bytes.
It appears under its name when it is whole, and each tensor is compared with its digest
as it is read: what is not exactly what was written is made from the checkpoint again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llmpq_jax import __version__
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.formats import read_format
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.safetensors_file import read_header, read_stored
from llmpq_jax.errors import CheckpointError
from llmpq_jax.kernels import GroupArray, PanelArray, Weight, device_kernel_path
from llmpq_jax.quant import QArray

# To be raised with every change to a layout or to rounding to the nearest.
_FORMAT = 1
# Of a disk, kept free for others.
_MIN_FREE = 0.1
_ASIDE = ".writing."
_ABANDONED_S = 24 * 3600
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (QArray, PanelArray, GroupArray)
}
PartKey = Mapping[str, object]
Put = Callable[[str, np.ndarray, bool], jax.Array]


def source_key(reader: CheckpointReader) -> PartKey | None:
    """Says which files weights are made of; None if they hold integers already.

    The fingerprint samples weights, so the files' times and sizes stand beside it: one
    that was written to since, wherever, is another.
    """
    if read_format(reader.folder) is not None:
        return None
    files: list[list[object]] = []
    for path in sorted(reader.folder.glob("*.safetensors")):
        found = path.stat()
        times = [found.st_mtime_ns, found.st_ctime_ns]
        files.append([path.name, found.st_size, found.st_ino, *times])
    return {"model": model_fingerprint(reader.folder), "files": files}


def part_key(
    source: PartKey,
    part: int | Literal["head"],
    *,
    bits: int,
    group_size: int,
    devices: tuple[Any, ...],
) -> PartKey:
    """Says all that decides the bytes of a layer, or of the head, as it is served."""
    return {
        **source,
        "format": _FORMAT,
        "program": [__version__, jax.__version__],
        "part": part,
        "bits": bits,
        "rounding": "nearest",
        "group_size": group_size,
        "kernels": device_kernel_path(devices[0]),
        "num_devices": len(devices),
    }


class WeightsCache:
    """A folder of rounded weights, for any models, that several processes may share."""

    def __init__(self, folder: Path, *, tell: Callable[[str], None]) -> None:
        """Takes a folder, which is made when it is needed.

        Args:
            folder: Where the files are kept.
            tell: Hears in one line of a file that is damaged, or cannot be written.
        """
        self.folder = folder
        self._tell = tell
        self._is_written = True
        self._used: set[Path] = set()

    def weights(
        self,
        key: PartKey,
        *,
        make: Callable[[], Weights],
        put: Put,
    ) -> Weights:
        """Returns a part's weights, read if they are kept, else made and kept.

        Args:
            key: As `part_key` makes it.
            make: Reads and rounds them.
            put: Brings an array of a weight to where it is served: takes the weight's
                name, the array, and whether it is of a `PanelArray`.
        """
        name = hashlib.sha256(_text(key).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        self._used.add(path)
        try:
            weights = _read(path, key, put)
            # Those used longest ago are deleted first.
            with suppress(OSError):
                os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (CheckpointError, SafetensorError, OSError, ValueError, KeyError):
            self._tell(
                f"weights cache {path}: is not what was written there: its weights are read from the checkpoint and rounded again"
            )
        else:
            return weights
        weights = make()
        if self._is_written:
            self._keep(path, key, weights)
        return weights

    def _keep(self, path: Path, key: PartKey, weights: Weights) -> None:
        """Writes a file, or says once why none is written any more."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # What a run that was killed left half-written.
            for left in self.folder.glob(f"{_ASIDE}*"):
                if time.time() - _last_use(left) > _ABANDONED_S:
                    shutil.rmtree(left, ignore_errors=True)
            self._make_room(sum(weight.nbytes for weight in weights.values()))
            _write(path, key, weights)
        except (OSError, SafetensorError) as reason:
            self._is_written = False
            told = getattr(reason, "strerror", None) or reason
            self._tell(
                f"weights cache {self.folder}: cannot be written ({told}): the run goes on without; name another folder, or none, by --weights-cache"
            )

    def _make_room(self, num_bytes: int) -> None:
        """Deletes what was used longest ago, so that a tenth of the disk stays free.

        Raises:
            OSError: That was not enough.
        """
        disk = shutil.disk_usage(self.folder)
        short_bytes = num_bytes + int(_MIN_FREE * disk.total) - disk.free
        kept = list(self.folder.glob("*.safetensors"))
        for path in sorted(kept, key=_last_use):
            if short_bytes <= 0:
                return
            if path not in self._used:
                with suppress(FileNotFoundError):
                    short_bytes -= path.stat().st_size
                    path.unlink()
        if short_bytes > 0:
            msg = "less than a tenth of the disk would stay free"
            raise OSError(msg)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read(path: Path, key: PartKey, put: Put) -> Weights:
    """Reads a file tensor by tensor, each checked before it is placed.

    Raises:
        FileNotFoundError: There is none.
        Exception: One of those that `WeightsCache.weights` catches.
    """
    path.stat()
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    text = metadata["content"]
    content = json.loads(text)
    if metadata["digest"] != _digest(text.encode()) or content["key"] != json.loads(
        _text(key)
    ):
        msg = "it holds something else"
        raise ValueError(msg)
    tensors = read_header(path)
    weights: Weights = {}
    for name, (kind, static, leaves) in content["weights"].items():
        placed: dict[str, jax.Array] = {}
        for leaf, digest in leaves.items():
            array = read_stored(tensors[f"{name}.{leaf}"])
            if _array_digest(array) != digest:
                msg = f"tensor {name}.{leaf} has changed"
                raise ValueError(msg)
            in_panels = kind == PanelArray.__name__
            placed[leaf] = jax.block_until_ready(put(name, array, in_panels))
            del array
        is_plain = kind == _PLAIN
        weights[name] = placed[_PLAIN] if is_plain else _KINDS[kind](**static, **placed)
    return weights


def _write(path: Path, key: PartKey, weights: Weights) -> None:
    """Writes a file aside and renames it once it is on the disk."""
    arrays: dict[str, np.ndarray] = {}
    described: dict[str, list[Any]] = {}
    for name, weight in weights.items():
        kind, static, leaves = _taken_apart(weight)
        digests = {leaf: _array_digest(array) for leaf, array in leaves.items()}
        described[name] = [kind, static, digests]
        arrays |= {f"{name}.{leaf}": array for leaf, array in leaves.items()}
    text = _text({"key": key, "weights": described})
    metadata = {"content": text, "digest": _digest(text.encode())}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_ASIDE) as folder:
        aside = Path(folder, path.name)
        save_file(arrays, aside, metadata=metadata)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)


_PLAIN = "array"


def _taken_apart(
    weight: Weight,
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Returns a weight's class, what is no array of it, and its arrays on the host."""
    if isinstance(weight, jax.Array):
        return _PLAIN, {}, {_PLAIN: np.asarray(weight)}
    assert isinstance(weight, QArray | PanelArray | GroupArray), "no run is watched"
    static: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields(weight):
        value = getattr(weight, field.name)
        if not field.metadata.get("pytree_node", True):
            static[field.name] = value
        elif value is not None:
            arrays[field.name] = np.asarray(value)
    return type(weight).__name__, static, arrays


def _array_digest(array: np.ndarray) -> str:
    """Hashes type, shape and elements."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True)
