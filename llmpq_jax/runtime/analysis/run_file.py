"""Reads the record of a run from its file."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmpq_jax.errors import SpecError
from llmpq_jax.files import reading
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import decode_record

_BATCH = TypeAdapter(BatchRecord)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRun:
    """A run as its record describes it.

    Attributes:
        strategy: Strategy that was run, with the run's own paths.
        command: Command line as typed.
        date: Date and time of the run, in ISO format.
        batches: Records of its batches, in the order of service.
    """

    strategy: Strategy
    command: str
    date: str
    batches: tuple[BatchRecord, ...]


def read_run(path: Path) -> RecordedRun:
    """Reads a file that `llmpq-jax generate --record` wrote.

    Raises:
        SpecError: If the file is missing or is no run record.
    """
    where = f"run record {path}"
    expected = "JSON lines; make it with `llmpq-jax generate --record FILE`"
    with reading(path, "run record", expected, SpecError):
        text = path.read_text(encoding="utf-8")
    header: dict[str, Any] | None = None
    batches: dict[int, dict[str, Any]] = {}
    events: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            values = json.loads(line)
            match values.pop("record"):
                case "run":
                    header = values
                case "batch":
                    batches[values.pop("batch")] = values
                case "event":
                    events[values.pop("batch")].append(values)
                case "phase":  # derived from the events, for other programs
                    pass
                case other:
                    raise ValueError(other)
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            RecursionError,
        ) as reason:
            msg = f'{where}, line {number}: found {line[:40]!r}, expected a JSON object with "record"; make the file with `llmpq-jax generate --record FILE`'
            raise SpecError(msg) from reason
    if header is None or "strategy" not in header or not batches:
        missing = "a batch" if header and "strategy" in header else "its strategy"
        msg = f"{where}: lacks {missing}: expected all lines that `llmpq-jax generate --record FILE` writes; run it again"
        raise SpecError(msg)
    strategy = decode_record(
        Strategy, header["strategy"], where=f"{where}: strategy", error=SpecError
    )
    return RecordedRun(
        strategy=strategy,
        command=str(header.get("command", "")),
        date=str(header.get("date", "")),
        batches=tuple(
            _batch(values, events[number], len(strategy.stages), where)
            for number, values in sorted(batches.items())
        ),
    )


def _batch(
    values: dict[str, Any], events: list[dict[str, Any]], num_stages: int, where: str
) -> BatchRecord:
    try:
        batch = _BATCH.validate_python({**values, "events": events})
    except ValidationError as reason:
        first = reason.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        msg = f"{where}: {at}: {first['msg']}: expected what `llmpq-jax generate --record FILE` writes"
        raise SpecError(msg) from reason
    if len(batch.stages) != num_stages or any(
        not 0 <= event.stage < num_stages for event in batch.events
    ):
        msg = f"{where}: a batch of {len(batch.stages)} stages, or an event of another: expected {num_stages}, as in the strategy"
        raise SpecError(msg)
    return batch
