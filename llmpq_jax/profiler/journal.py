"""The measurements so far, and the file that grows with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmpq_jax.errors import MeasurementError
from llmpq_jax.files import write_all, write_text, writing
from llmpq_jax.schema.measurements import MeasuredKind, Measurements, Row
from llmpq_jax.schema.measurements_file import (
    finished_text,
    header_text,
    read_measurements,
    row_text,
    with_row,
)

_HEADER = ("layer_shape", "activations", "group_size")
_KIND = ("platform", "device", "driver", "jax_version", "kernel_path")


class Journal:
    """Keeps rows as they are measured; each is in the file before the next is measured."""

    def __init__(
        self, header: Measurements, path: Path | None, *, overwrites: bool = False
    ) -> None:
        """Opens the file, or resumes where it ends; keeps rows in memory without a path.

        Raises:
            MeasurementError: If the file holds anything but earlier rows of the same
                measurements, and is not to be overwritten.
        """
        self.measurements = header
        self._path = path
        self._num_bytes = 0
        if path is None:
            return
        if overwrites or not path.exists():
            text = header_text(header)
        else:
            self.measurements = read_measurements(path)
            self._refuse_other(self.measurements, header, _HEADER, "")
            # A row that was cut short must go before another follows it.
            text = finished_text(path)
        write_text(path, text)
        self._num_bytes = len(text.encode())

    def holds(self, rows: tuple[Row, ...], /, **fields: Any) -> bool:
        """Whether one of the rows has these values."""
        return any(
            all(getattr(row, name) == value for name, value in fields.items())
            for row in rows
        )

    def add(self, row: Row) -> None:
        """Adds a row and writes it.

        Raises:
            MeasurementError: If the file was changed since the row before.
            RequestError: If it cannot be written.
        """
        self.measurements = with_row(self.measurements, row)
        if self._path is not None:
            self._append(self._path, row_text(row).encode())

    def add_kind(self, kind: MeasuredKind) -> None:
        """Adds a kind of device, unless it is there already.

        Raises:
            MeasurementError: If it was measured before under other circumstances.
        """
        for earlier in self.measurements.kinds:
            if earlier.kind == kind.kind:
                self._refuse_other(earlier, kind, _KIND, f"kind {kind.kind!r}: ")
                return
        self.add(kind)

    def _append(self, path: Path, content: bytes) -> None:
        with writing(path, "measurements"):
            # Not created: without what was before them, rows are no measurements.
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                size_bytes = os.fstat(descriptor).st_size
                if size_bytes == self._num_bytes:
                    write_all(descriptor, content)
            finally:
                os.close(descriptor)
        if size_bytes != self._num_bytes:
            msg = f"measurements {path}: has {size_bytes} bytes: expected {self._num_bytes}, as they were written; something else changed it meanwhile; measure again into another file"
            raise MeasurementError(msg)
        self._num_bytes += len(content)

    def _refuse_other(
        self, earlier: object, now: object, names: tuple[str, ...], where: str
    ) -> None:
        for name in names:
            found, expected = getattr(earlier, name), getattr(now, name)
            if found != expected:
                msg = f"measurements {self._path}: {where}{name}: found {found!r}, expected {expected!r} to resume it: choose another file, or overwrite this one"
                raise MeasurementError(msg)
