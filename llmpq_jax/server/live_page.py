"""The page at `/`, and what it shows of the pipeline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmpq_jax.runtime.stage_meter import StageReading
from llmpq_jax.server.state import ServerState
from llmpq_jax.units import format_bytes

# Paths of the page's files, which need no key.
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # Nothing is loaded from elsewhere, whatever a model writes.
    "content-security-policy": "default-src 'self'; img-src data:",
    "x-content-type-options": "nosniff",
}


def page_routes(state: ServerState) -> list[Route]:
    """Returns the routes of the page."""
    routes = [
        Route(path, _file(name, kind)) for path, (name, kind) in PAGE_FILES.items()
    ]

    async def stages(_: HttpRequest) -> Response:
        return JSONResponse(stage_values(state))

    return [*routes, Route("/stages", stages)]


def stage_values(state: ServerState) -> dict[str, Any]:
    """Returns what the server does now, and each of its stages."""
    serving = state.served.serving
    counters = serving.counters
    return {
        "model": state.settings.model_name,
        "running": counters.num_running,
        "waiting": counters.num_waiting,
        "slots": serving.shape.num_rows,
        "tokens_per_s": serving.meter.tokens_per_s(),
        "stages": [_stage(reading) for reading in serving.meter.readings()],
    }


def _stage(reading: StageReading) -> dict[str, Any]:
    stage = reading.stage
    predicted = stage.predicted
    return {
        "devices": stage.devices,
        "layers": stage.layers,
        "bits": stage.bits,
        "busy_share": reading.busy_share,
        "queued_s": reading.queued_s,
        "decode_s": reading.decode_s,
        "prefill_s": reading.prefill_s,
        "prefill_tokens_per_s": reading.prefill_tokens_per_s,
        "predicted_decode_s": reading.predicted_decode_s,
        "memory": "–" if predicted is None else format_bytes(predicted.memory_bytes),
    }


def _file(name: str, kind: str) -> Callable[[HttpRequest], Awaitable[Response]]:
    content = (files("llmpq_jax.server") / "page" / name).read_bytes()

    async def send(_: HttpRequest) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return send
