"""Reads measurements files, whole or still growing, and writes them row by row.

A file opens with a header, then come rows in the order they were measured:

    [[layer]]
    kind = "A100-40"
    ...
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from llmpq_jax.errors import MeasurementError
from llmpq_jax.spec._toml import decode_record, to_toml
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.cluster import Cluster
from llmpq_jax.spec.fingerprint import layer_shape_fingerprint
from llmpq_jax.spec.measurements import (
    Accuracy,
    CallTime,
    Drift,
    EndTime,
    LayerTime,
    LinkTime,
    MeasuredKind,
    Measurements,
    Observed,
    SharedCapacity,
)

Row: TypeAlias = (
    MeasuredKind
    | LayerTime
    | EndTime
    | CallTime
    | LinkTime
    | SharedCapacity
    | Accuracy
    | Drift
    | Observed
)

# In the file, and in `Measurements`.
_TABLES: dict[type[Row], tuple[str, str]] = {
    MeasuredKind: ("kind", "kinds"),
    LayerTime: ("layer", "layers"),
    EndTime: ("end", "ends"),
    CallTime: ("call", "calls"),
    LinkTime: ("link", "links"),
    SharedCapacity: ("shared", "shared"),
    Accuracy: ("accuracy", "accuracy"),
    Drift: ("drift", "drift"),
    Observed: ("observed", "observed"),
}
# Measurements that are older are doubted.
OLD_DAYS = 180
_COMMENT = """\
Measurements of llmpq-jax, a row each as it was made. Made by `llmpq-jax profile`, which
goes on where the file ends."""


def read_measurements(path: Path) -> Measurements:
    """Reads what has been measured so far.

    A last row that an interruption cut short is ignored, and tables that have not been
    reached are empty: whoever needs their rows says which are missing.

    Raises:
        MeasurementError: The file is missing or does not hold measurements.
    """
    where = f"measurements {path}"
    try:
        data = tomllib.loads(finished_text(path))
    except tomllib.TOMLDecodeError as reason:
        msg = f"{where}: is not TOML: {reason}"
        raise MeasurementError(msg) from reason
    empty = {table: [] for table, _ in _TABLES.values()}
    return decode_record(
        Measurements, {**empty, **data}, where=where, error=MeasurementError
    )


def finished_text(path: Path) -> str:
    """Returns a file's text without a last row that was cut short.

    Raises:
        MeasurementError: The file is missing or is not text.
    """
    try:
        content = path.read_bytes()
        # A cut may fall inside a number, which would still be one: whole lines count.
        text = content[: content.rfind(b"\n") + 1].decode()
    except OSError as reason:
        msg = f"measurements {path}: cannot be read ({reason.strerror or reason}): expected a measurements file; make one with `llmpq-jax profile`"
        raise MeasurementError(msg) from reason
    except UnicodeDecodeError as reason:
        msg = f"measurements {path}: is not UTF-8 text (byte {reason.start}): expected a measurements file in TOML"
        raise MeasurementError(msg) from reason
    start = text.rfind("\n[[") + 1
    return text[:start] if start and _is_cut_short(text[start:]) else text


def header_text(measurements: Measurements) -> str:
    """Writes what stands before all rows."""
    without: dict[str, Any] = {field: () for _, field in _TABLES.values()}
    header = replace(measurements, **without)
    return to_toml(header, comment=_COMMENT)


def row_text(row: Row) -> str:
    """Writes one row as it stands in the file."""
    table, _ = _TABLES[type(row)]
    return f"\n[[{table}]]\n{to_toml(row)}"


def with_row(measurements: Measurements, row: Row) -> Measurements:
    """Returns the measurements with one row more."""
    _, field = _TABLES[type(row)]
    more: dict[str, Any] = {field: (*getattr(measurements, field), row)}
    return replace(measurements, **more)


def check_measurements(measurements: Measurements, architecture: Architecture) -> None:
    """Refuses measurements of layers of another shape than a model's.

    Raises:
        MeasurementError: They are of another shape.
    """
    expected = layer_shape_fingerprint(architecture)
    if measurements.layer_shape != expected:
        msg = f"measurements of {measurements.model}: found layers of shape {measurements.layer_shape}, expected {expected}, the shape of this {architecture.family} model: run `llmpq-jax profile` for this model"
        raise MeasurementError(msg)


def check_kinds(measurements: Measurements, cluster: Cluster) -> None:
    """Refuses measurements of a kind that another backend served.

    Raises:
        MeasurementError: A kind's platform is not that of the cluster's devices.
    """
    measured = {row.kind: row for row in measurements.kinds}
    for place in cluster.placed:
        found, wanted = measured.get(place.device.kind), place.device.platform
        # JAX calls CUDA "gpu" as well.
        known = {wanted, "gpu"} if wanted == "cuda" else {wanted}
        if place.device.use != "never" and found and found.platform not in known:
            msg = f"measurements of {measurements.model}: kind {found.kind!r} was measured on platform {found.platform!r}, {place.name} is of {wanted!r}: expected the same; name another kind in the cluster file, or run `llmpq-jax profile` there"
            raise MeasurementError(msg)


def doubts(
    measurements: Measurements, *, jax_version: str, today: date
) -> tuple[str, ...]:
    """Says why measurements that can be read may no longer be right.

    Args:
        measurements: Made, not foretold.
        jax_version: That a plan will run with.
        today: To tell their age by.
    """
    found = []
    for row in measurements.kinds:
        if row.source != "measured":
            continue
        if row.jax_version != jax_version:
            found.append(
                f"{row.kind} was measured with JAX {row.jax_version}, here is "
                f"{jax_version}: seconds and memory may differ; `llmpq-jax profile` "
                "measures anew"
            )
        age_days = (today - _date(row.date, today)).days
        if age_days > OLD_DAYS:
            found.append(
                f"{row.kind} was measured {age_days} days ago: drivers and kernels may "
                "have changed; `llmpq-jax profile` measures anew"
            )
    return tuple(found)


def _date(text: str, otherwise: date) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return otherwise


def _is_cut_short(row: str) -> bool:
    try:
        data: dict[str, Any] = tomllib.loads(row)
    except tomllib.TOMLDecodeError:
        return False  # whole lines that are no TOML were not cut short but mistyped
    for cls, (table, _) in _TABLES.items():
        if table in data and isinstance(data[table], list):
            needed = {field.name for field in fields(cls) if field.default is MISSING}
            return not needed <= data[table][-1].keys()
    return False
