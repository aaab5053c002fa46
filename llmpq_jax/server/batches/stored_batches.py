"""Batches in a folder: what each is to answer, and how far it has come."""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any, Literal

from llmpq_jax.errors import SpecError
from llmpq_jax.files import json_text, write_text, writing
from llmpq_jax.schema.record import record
from llmpq_jax.schema.toml import decode_record

BatchStatus = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "cancelling",
    "cancelled",
]
_ENDED: tuple[BatchStatus, ...] = ("completed", "failed", "cancelled")
_ID = re.compile(r"batch_[0-9a-f]{32}")
# OpenAI's batches expire; these do not.
_TIMES = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


@record
class Batch:
    """A file of requests that is answered.

    Attributes:
        id: Name of the batch in requests.
        endpoint: Path that all its requests are for.
        input_file_id: File of the requests.
        completion_window: Time that the client gives it, which is not used.
        created_at: Seconds since 1970.
        status: How far it has come.
        times: Seconds since 1970 when it reached each status.
        num_lines: Number of requests.
        num_completed: Number of requests that are answered.
        num_failed: Number of requests that could not be.
        output_file_id: File of the answers, once it has ended.
        error_file_id: File of the errors, once it has ended.
        error: Why it failed.
        metadata: What the client added.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    status: BatchStatus = "validating"
    times: dict[str, int] = field(default_factory=dict)
    num_lines: int = 0
    num_completed: int = 0
    num_failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    error: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in _ENDED

    def at(self, status: BatchStatus, **changes: Any) -> Batch:
        """Returns the batch when it reaches a status."""
        times = {**self.times, f"{status}_at": int(time.time())}
        return replace(self, status=status, times=times, **changes)

    def values(self) -> dict[str, Any]:
        """Returns the batch in OpenAI's form."""
        errors = None
        if self.error is not None:
            found = {"code": "invalid_request", "message": self.error}
            errors = {
                "object": "list",
                "data": [{**found, "line": None, "param": None}],
            }
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            **{name: self.times.get(name) for name in _TIMES},
            "request_counts": {
                "total": self.num_lines,
                "completed": self.num_completed,
                "failed": self.num_failed,
            },
            "metadata": self.metadata or None,
        }


class StoredBatches:
    """Batches in a folder, with the results so far of those that have not ended."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is missing; reads the batches in it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._batches: dict[str, Batch] = {}
        for path in folder.glob("batch_*.json"):
            # One that cannot be read is left alone.
            with suppress(SpecError, ValueError, OSError, RecursionError):
                content = json.loads(path.read_bytes())
                found = decode_record(Batch, content, where=str(path))
                if _ID.fullmatch(found.id) and path.stem == found.id:
                    self._batches[found.id] = found

    def create(
        self,
        *,
        endpoint: str,
        input_file_id: str,
        completion_window: str,
        metadata: dict[str, str],
    ) -> Batch:
        """Makes a batch.

        Raises:
            RequestError: It cannot be written.
        """
        made = Batch(
            id=f"batch_{uuid.uuid4().hex}",
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=completion_window,
            created_at=int(time.time()),
            metadata=metadata,
        )
        self.save(made)
        return made

    def find(self, batch_id: str) -> Batch | None:
        """Returns a batch, or None if there is none of this name."""
        return self._batches.get(batch_id)

    def newest_first(self) -> list[Batch]:
        """Returns all batches."""
        return sorted(
            self._batches.values(), key=lambda each: (-each.created_at, each.id)
        )

    def next(self) -> Batch | None:
        """Returns the oldest batch that has not ended, if there is one."""
        left = (each for each in self.newest_first() if not each.has_ended)
        return next(reversed(list(left)), None)

    def results_path(self, batch_id: str) -> Path:
        """Returns the path of a batch's results so far."""
        return self._folder / f"{batch_id}.results.jsonl"

    def note(self, batch: Batch) -> None:
        """Takes a batch's new counts, which its results on disk say too."""
        self._batches[batch.id] = batch

    def save(self, batch: Batch) -> None:
        """Takes a batch, and returns when it is on disk.

        Raises:
            RequestError: It cannot be written.
        """
        path = self._folder / f"{batch.id}.json"
        with writing(path, "batch"):
            write_text(path, json_text(asdict(batch), ensure_ascii=False) + "\n")
        self._batches[batch.id] = batch
