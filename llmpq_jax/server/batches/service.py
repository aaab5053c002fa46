"""Clients' files and batches in one folder, which one server at a time has."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.routing import Route

from llmpq_jax.errors import RequestError
from llmpq_jax.files import writing
from llmpq_jax.server.batches.routes import batch_routes
from llmpq_jax.server.batches.runner import BatchRunner
from llmpq_jax.server.batches.stored_batches import StoredBatches
from llmpq_jax.server.batches.stored_files import StoredFiles
from llmpq_jax.server.state import ServerState


class BatchService:
    """The routes of files and batches, and what answers them.

    Attributes:
        routes: Routes of the application.
    """

    def __init__(self, state: ServerState, folder: Path) -> None:
        """Reads what is in a folder."""
        files = StoredFiles(folder / "files")
        batches = StoredBatches(folder / "batches")
        runner = BatchRunner(state, files, batches)
        self.routes: list[Route] = batch_routes(state.settings, files, batches, runner)
        self._runner = runner

    async def run(self) -> None:
        """Answers batches until it is cancelled; those that have not ended go on later."""
        await self._runner.run()


@contextmanager
def open_batches(state: ServerState, folder: Path) -> Iterator[BatchService]:
    """Opens the files and batches of a folder, which is made if it is missing.

    Raises:
        RequestError: It cannot be written, or another server has it.
    """
    with writing(folder, "folder of files"):
        # Of what clients send, others read nothing.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            # It ends with the process, however that ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as reason:
            msg = f"folder of files {folder}: another server has it: expected one of this server alone"
            raise RequestError(msg) from reason
        with writing(folder, "folder of files"):
            service = BatchService(state, folder)
        yield service
    finally:
        os.close(descriptor)
