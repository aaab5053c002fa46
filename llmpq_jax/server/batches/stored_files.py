"""Files of clients in a folder: the requests that they upload, the results of batches."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from llmpq_jax.errors import SpecError
from llmpq_jax.files import json_text, write_text, writing
from llmpq_jax.schema.record import record
from llmpq_jax.schema.toml import decode_record

_ID = re.compile(r"file-[0-9a-f]{32}")


@record
class StoredFile:
    """A file of a client.

    Attributes:
        id: Name of the file in requests.
        filename: Name that the client gave it.
        purpose: What it is for: requests of a batch, or results of one.
        bytes: Number of bytes of its content.
        created_at: Seconds since 1970.
    """

    id: str
    filename: str
    purpose: Literal["batch", "batch_output"]
    bytes: int
    created_at: int

    def values(self) -> dict[str, Any]:
        """Returns the file in OpenAI's form."""
        return {**asdict(self), "object": "file", "status": "processed"}


class StoredFiles:
    """Files in a folder, each with a description next to it."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is missing; reads the descriptions in it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files = {each.id: each for each in _described(folder)}

    def path(self, file_id: str) -> Path:
        """Returns the path of a file's content."""
        return self._folder / f"{file_id}.jsonl"

    def find(self, file_id: str) -> StoredFile | None:
        """Returns a file, or None if there is none of this name."""
        return self._files.get(file_id)

    def newest_first(self) -> list[StoredFile]:
        """Returns all files."""
        return sorted(
            self._files.values(), key=lambda each: (-each.created_at, each.id)
        )

    async def receive(self, filename: str, content: AsyncIterator[bytes]) -> StoredFile:
        """Stores what a client uploads; nothing is left of it if that fails.

        Raises:
            RequestError: It cannot be written.
        """
        file_id, path = self._new()
        try:
            with writing(path, "uploaded file"), path.open("xb") as file:
                async for part in content:
                    file.write(part)
            return self._describe(file_id, filename, "batch")
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def add(self, filename: str, lines: Iterator[bytes]) -> StoredFile | None:
        """Stores results; returns None if there are none.

        Raises:
            RequestError: They cannot be written.
        """
        file_id, path = self._new()
        try:
            with writing(path, "results"), path.open("xb") as file:
                file.writelines(lines)
            if path.stat().st_size:
                return self._describe(file_id, filename, "batch_output")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        path.unlink()
        return None

    def delete(self, file_id: str) -> None:
        """Deletes a file."""
        del self._files[file_id]
        # In this order: content without a description is not a file.
        (self._folder / f"{file_id}.json").unlink(missing_ok=True)
        self.path(file_id).unlink(missing_ok=True)

    def _new(self) -> tuple[str, Path]:
        file_id = f"file-{uuid.uuid4().hex}"
        return file_id, self.path(file_id)

    def _describe(
        self, file_id: str, filename: str, purpose: Literal["batch", "batch_output"]
    ) -> StoredFile:
        made = StoredFile(
            id=file_id,
            filename=filename,
            purpose=purpose,
            bytes=self.path(file_id).stat().st_size,
            created_at=int(time.time()),
        )
        description = self._folder / f"{file_id}.json"
        with writing(description, "uploaded file"):
            write_text(description, json_text(asdict(made)) + "\n")
        self._files[file_id] = made
        return made


def _described(folder: Path) -> Iterator[StoredFile]:
    for path in folder.glob("file-*.json"):
        # One that cannot be read is not a file; its content stays.
        with suppress(SpecError, ValueError, OSError, RecursionError):
            content = json.loads(path.read_bytes())
            found = decode_record(StoredFile, content, where=str(path))
            if _ID.fullmatch(found.id) and path.stem == found.id:
                yield found
    for path in folder.glob("file-*.jsonl"):
        # Of an upload that did not end.
        if not path.with_suffix(".json").exists():
            path.unlink()
