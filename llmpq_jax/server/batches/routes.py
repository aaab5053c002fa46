"""The endpoints /v1/files and /v1/batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from llmpq_jax.batch.request_fields import short_repr
from llmpq_jax.server.batches.runner import ENDPOINTS, BatchRunner
from llmpq_jax.server.batches.stored_batches import Batch, StoredBatches
from llmpq_jax.server.batches.stored_files import StoredFile, StoredFiles
from llmpq_jax.server.bodies import read_json
from llmpq_jax.server.errors import ApiError
from llmpq_jax.server.settings import ServerSettings

# OpenAI's.
_MAX_PAGE, _USUAL_PAGE = 100, 20
_MAX_NAME_CHARACTERS = 255
_MAX_METADATA = 16
_READ_BYTES = 1 << 20
Listed = TypeVar("Listed", StoredFile, Batch)


def batch_routes(
    settings: ServerSettings,
    files: StoredFiles,
    batches: StoredBatches,
    runner: BatchRunner,
) -> list[Route]:
    """Returns the routes of clients' files, and of batches over them."""
    uploads = _Files(settings, files, batches)
    runs = _Batches(settings, files, batches, runner)
    return [
        Route("/v1/files", uploads.upload, methods=["POST"]),
        Route("/v1/files", uploads.list),
        Route("/v1/files/{file_id}", uploads.show),
        Route("/v1/files/{file_id}", uploads.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", uploads.content),
        Route("/v1/batches", runs.create, methods=["POST"]),
        Route("/v1/batches", runs.list),
        Route("/v1/batches/{batch_id}", runs.show),
        Route("/v1/batches/{batch_id}/cancel", runs.cancel, methods=["POST"]),
    ]


class _Files:
    def __init__(
        self, settings: ServerSettings, files: StoredFiles, batches: StoredBatches
    ) -> None:
        self._settings = settings
        self._files = files
        self._batches = batches

    async def upload(self, http: HttpRequest) -> Response:
        if not http.headers.get("content-type", "").startswith("multipart/form-data"):
            msg = "content-type: expected multipart/form-data with the parts file and purpose"
            raise ApiError(400, msg)
        parser = MultiPartParser(
            http.headers, _limited(http, self._settings), max_files=1, max_fields=8
        )
        try:
            form = await parser.parse()
        except MultiPartException as reason:
            raise ApiError(400, f"the form: {reason.message}") from reason
        try:
            return JSONResponse((await self._receive(form)).values())
        finally:
            await form.close()

    async def _receive(self, form: FormData) -> StoredFile:
        purpose, file = form.get("purpose"), form.get("file")
        if purpose != "batch":
            msg = f"purpose: found {short_repr(purpose)}, expected 'batch'"
            raise ApiError(400, msg, param="purpose")
        if not isinstance(file, UploadFile):
            msg = "file: missing, expected JSON lines, one request on each"
            raise ApiError(400, msg, param="file")
        name = (file.filename or "requests.jsonl")[:_MAX_NAME_CHARACTERS]
        return await self._files.receive(name, _parts(file))

    async def list(self, http: HttpRequest) -> Response:
        return _page(http, self._files.newest_first())

    async def show(self, http: HttpRequest) -> Response:
        return JSONResponse(self._find(http).values())

    async def content(self, http: HttpRequest) -> Response:
        found = self._find(http)
        path = self._files.path(found.id)
        return FileResponse(path, media_type="application/jsonl")

    async def delete(self, http: HttpRequest) -> Response:
        found = self._find(http)
        for batch in self._batches.newest_first():
            if batch.input_file_id == found.id and not batch.has_ended:
                msg = f"the file {found.id} is being answered by {batch.id}: expected one of no batch, or of one that has ended; cancel that first"
                raise ApiError(409, msg, code="file_in_use")
        self._files.delete(found.id)
        return JSONResponse({"id": found.id, "object": "file", "deleted": True})

    def _find(self, http: HttpRequest) -> StoredFile:
        return _file(self._files, http.path_params["file_id"])


class _Batches:
    def __init__(
        self,
        settings: ServerSettings,
        files: StoredFiles,
        batches: StoredBatches,
        runner: BatchRunner,
    ) -> None:
        self._settings = settings
        self._files = files
        self._batches = batches
        self._runner = runner

    async def create(self, http: HttpRequest) -> Response:
        values = await read_json(http, self._settings)
        endpoint = values.get("endpoint")
        if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
            expected = " or ".join(map(repr, ENDPOINTS))
            msg = f"endpoint: found {short_repr(endpoint)}, expected {expected}"
            raise ApiError(400, msg, param="endpoint")
        window = values.get("completion_window", "24h")
        if not isinstance(window, str) or len(window) > _MAX_NAME_CHARACTERS:
            msg = "completion_window: expected a text such as '24h'"
            raise ApiError(400, msg, param="completion_window")
        file = _file(self._files, values.get("input_file_id"))
        batch = self._batches.create(
            endpoint=endpoint,
            input_file_id=file.id,
            completion_window=window,
            metadata=_metadata(values.get("metadata")),
        )
        self._runner.wake()
        return JSONResponse(batch.values())

    async def list(self, http: HttpRequest) -> Response:
        return _page(http, self._batches.newest_first())

    async def show(self, http: HttpRequest) -> Response:
        return JSONResponse(self._find(http).values())

    async def cancel(self, http: HttpRequest) -> Response:
        batch = self._find(http)
        if batch.status in ("validating", "in_progress"):
            batch = batch.at("cancelling")
            self._batches.save(batch)
            self._runner.wake()
        elif batch.status not in ("cancelling", "cancelled"):
            msg = f"the batch {batch.id} is {batch.status}: expected one that has not ended"
            raise ApiError(409, msg)
        return JSONResponse(batch.values())

    def _find(self, http: HttpRequest) -> Batch:
        batch_id = http.path_params["batch_id"]
        found = self._batches.find(batch_id)
        if found is None:
            msg = f"there is no batch {batch_id[:80]!r}"
            raise ApiError(404, msg, code="not_found")
        return found


def _file(files: StoredFiles, file_id: object) -> StoredFile:
    found = files.find(file_id) if isinstance(file_id, str) else None
    if found is None:
        msg = f"there is no file {str(file_id)[:80]!r}"
        raise ApiError(404, msg, code="not_found", param="file_id")
    return found


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    found = dict(value) if isinstance(value, Mapping) else {}
    are_texts = all(isinstance(each, str) for each in found.values())
    if not isinstance(value, Mapping) or not are_texts or len(found) > _MAX_METADATA:
        msg = f"metadata: expected at most {_MAX_METADATA} texts by name"
        raise ApiError(400, msg, param="metadata")
    return found


def _page(http: HttpRequest, listed: Sequence[Listed]) -> Response:
    """Returns a page of a list, after the entry that the client names, if it does."""
    after, limit = http.query_params.get("after"), http.query_params.get("limit")
    purpose = http.query_params.get("purpose")
    if limit is not None and not (
        limit.isdecimal() and len(limit) < 9 and int(limit) >= 1
    ):
        msg = f"limit: found {limit[:20]!r}, expected a number from 1 up"
        raise ApiError(400, msg, param="limit")
    chosen = [each for each in listed if _has_purpose(each, purpose)]
    ids = [each.id for each in chosen]
    if after is not None and after not in ids:
        msg = f"after: found {after[:80]!r}, expected the id of an entry of the list"
        raise ApiError(400, msg, param="after")
    first = 0 if after is None else ids.index(after) + 1
    end = first + min(int(limit or _USUAL_PAGE), _MAX_PAGE)
    page = [each.values() for each in chosen[first:end]]
    return JSONResponse(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": end < len(chosen),
        }
    )


def _has_purpose(entry: StoredFile | Batch, purpose: str | None) -> bool:
    return purpose is None or getattr(entry, "purpose", None) == purpose


async def _limited(
    http: HttpRequest, settings: ServerSettings
) -> AsyncGenerator[bytes, None]:
    """Yields a body's parts within limits of its size and of the time for each."""
    num_bytes, parts = 0, http.stream()
    while True:
        try:
            async with asyncio.timeout(settings.read_timeout_s):
                part = await anext(parts, None)
        except TimeoutError as reason:
            msg = f"nothing of the body came for {settings.read_timeout_s:g} s"
            raise ApiError(408, msg) from reason
        if part is None:
            return
        num_bytes += len(part)
        if num_bytes > settings.max_file_bytes:
            msg = f"the file has more than {settings.max_file_bytes} bytes: expected a shorter one; divide it"
            raise ApiError(413, msg, code="request_too_large")
        yield part


async def _parts(file: UploadFile) -> AsyncIterator[bytes]:
    while part := await file.read(_READ_BYTES):
        yield part
