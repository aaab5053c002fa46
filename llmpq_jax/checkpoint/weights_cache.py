"""A cache of rounded weights in the layout that a device serves, for quick restarts.

A file holds one layer, or the head. Its name is a hash of everything that decides its
bytes. It gets that name once it is complete, and each array is compared with its digest
as it is read: a file that is not exactly what was written counts as not cached.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError

from llmpq_jax import __version__
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.calibrated import LayerOrHead
from llmpq_jax.checkpoint.formats import read_format
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.weights_file import (
    UNFINISHED,
    read_weights,
    sorted_json,
    write_weights,
)
from llmpq_jax.errors import CheckpointError
from llmpq_jax.kernels import Weight, device_kernel_path

# Increase it with every change to a layout or to rounding to the nearest.
_FORMAT = 1
_MIN_FREE = 0.1  # share of the disk that is left to others
_ABANDONED_S = 24 * 3600
CacheKey = Mapping[str, object]


class NotCachedError(LookupError):
    """Weights are not in the cache, or their file is damaged."""


def source_key(reader: CheckpointReader) -> CacheKey | None:
    """Identifies the files that weights are made of; None if they already hold integers.

    The fingerprint only samples weights, so times and sizes of the files are part of
    the key as well: a file that was written to since is another file.
    """
    if read_format(reader.folder) is not None:
        return None
    files: list[list[object]] = []
    for path in sorted(reader.folder.glob("*.safetensors")):
        found = path.stat()
        times = [found.st_mtime_ns, found.st_ctime_ns]
        files.append([path.name, found.st_size, found.st_ino, *times])
    return {"model": model_fingerprint(reader.folder), "files": files}


def weights_key(
    source: CacheKey,
    which: LayerOrHead,
    *,
    bits: int,
    group_size: int,
    devices: tuple[Any, ...],
) -> CacheKey:
    """Returns everything that decides the bytes of a layer, or of the head, as served."""
    return {
        **source,
        "format": _FORMAT,
        "program": [__version__, jax.__version__],
        "part": which,
        "bits": bits,
        "rounding": "nearest",
        "group_size": group_size,
        "kernels": device_kernel_path(devices[0]),
        "num_devices": len(devices),
    }


class WeightsCache:
    """A folder of rounded weights of any models, which several processes may share."""

    def __init__(self, folder: Path, *, log: Callable[[str], None]) -> None:
        """Opens a cache; its folder is created when the first file is written.

        A line is logged if a file is damaged, and if files cannot be written.
        """
        self.folder = folder
        self._log = log
        self._is_written = True
        self._used: set[Path] = set()

    def read(self, key: CacheKey) -> Iterator[tuple[str, Weight]]:
        """Reads the weights of a key one by one, their arrays in host memory.

        Raises:
            NotCachedError: There is no file for the key, or the file is damaged, which
                may be noticed after some weights were read.
        """
        path = self._path(key)
        self._used.add(path)
        try:
            yield from read_weights(path, key)
            # Those used longest ago are deleted first.
            with suppress(OSError):
                os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            raise NotCachedError(str(path)) from None
        except (CheckpointError, SafetensorError, OSError, ValueError, KeyError):
            self._log(
                f"weights cache {path}: is not what was written there: its weights are read from the checkpoint and rounded again"
            )
            raise NotCachedError(str(path)) from None

    def write(self, key: CacheKey, weights: Weights) -> None:
        """Writes weights, or logs once why none are written any more."""
        if not self._is_written:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Files that a killed run left incomplete.
            for left in self.folder.glob(f"{UNFINISHED}*"):
                if time.time() - _last_use(left) > _ABANDONED_S:
                    shutil.rmtree(left, ignore_errors=True)
            self._make_room(sum(weight.nbytes for weight in weights.values()))
            write_weights(self._path(key), key, weights)
        except (OSError, SafetensorError) as error:
            self._is_written = False
            reason = getattr(error, "strerror", None) or error
            self._log(
                f"weights cache {self.folder}: cannot be written ({reason}): the run goes on without; name another folder, or none, by --weights-cache"
            )

    def _path(self, key: CacheKey) -> Path:
        name = hashlib.sha256(sorted_json(key).encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"

    def _make_room(self, num_bytes: int) -> None:
        """Deletes the files used longest ago until a tenth of the disk stays free.

        Raises:
            OSError: If deleting them was not enough.
        """
        disk = shutil.disk_usage(self.folder)
        short_bytes = num_bytes + int(_MIN_FREE * disk.total) - disk.free
        files = self.folder.glob("*.safetensors")
        for path in sorted(files, key=_last_use):
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
