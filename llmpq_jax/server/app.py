"""The HTTP application: its routes, who may use them, and errors as clients expect them."""

from __future__ import annotations

import hmac
import logging
import time

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmpq_jax import __version__
from llmpq_jax.errors import LlmpqError
from llmpq_jax.server.batches.service import BatchService
from llmpq_jax.server.completions import Completions
from llmpq_jax.server.errors import CLIENT_GONE, ApiError
from llmpq_jax.server.live_page import PAGE_FILES, page_routes
from llmpq_jax.server.state import ServerState
from llmpq_jax.server.tokens import Tokens

_logger = logging.getLogger(__name__)
# Served without the key: they say nothing of anybody's requests.
_OPEN_PATHS = frozenset({"/health", "/ping", *PAGE_FILES})


def make_app(state: ServerState, batches: BatchService | None = None) -> Starlette:
    """Returns the ASGI application of a server, with files and batches if it has them."""
    completions, tokens = Completions(state), Tokens(state)
    started_s = int(time.time())

    async def health(_: HttpRequest) -> Response:
        served = state.served
        return JSONResponse(
            {"status": "ok", "model": served.pipeline.strategy.model.path}
        )

    async def metrics(_: HttpRequest) -> Response:
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(state.metrics.text(), media_type=media_type)

    async def version(_: HttpRequest) -> Response:
        return JSONResponse({"version": __version__})

    def model() -> dict[str, object]:
        return {
            "id": state.settings.model_name,
            "object": "model",
            "created": started_s,
            "owned_by": "llmpq-jax",
            "max_model_len": state.served.maker.max_context,
        }

    async def models(_: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [model()]})

    async def one_model(http: HttpRequest) -> Response:
        name, found = http.path_params["name"], model()
        if name != found["id"]:
            msg = f"the model {name!r} does not exist: expected {found['id']!r}"
            raise ApiError(404, msg, code="model_not_found")
        return JSONResponse(found)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions.chat, methods=["POST"]),
            Route("/v1/completions", completions.completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/tokenize", tokens.tokenize, methods=["POST"]),
            Route("/detokenize", tokens.detokenize, methods=["POST"]),
            Route("/tokenizer_info", tokens.info),
            Route("/health", health),
            Route("/ping", health, methods=["GET", "POST"]),
            Route("/metrics", metrics),
            Route("/version", version),
            *page_routes(state),
            *(batches.routes if batches else _without_files()),
        ],
        middleware=[Middleware(_KeyCheck, api_key=state.settings.api_key)],
        exception_handlers={
            ApiError: _on_api_error,
            LlmpqError: _on_error,
            ClientDisconnect: _on_gone,
            404: _on_unknown_path,
            405: _on_wrong_method,
            Exception: _on_bug,
        },
    )


def _without_files() -> list[Route]:
    """Returns routes that say of all paths of files and batches that there are none."""

    async def refuse(_: HttpRequest) -> Response:
        msg = "files and batches: this server keeps none: expected `llmpq-jax serve --files FOLDER`"
        raise ApiError(501, msg, code="not_implemented")

    paths = [
        f"/v1/{kind}{rest}"
        for kind in ("files", "batches")
        for rest in ("", "/{rest:path}")
    ]
    return [Route(path, refuse, methods=["GET", "POST", "DELETE"]) for path in paths]


class _KeyCheck:
    """Refuses requests without the key, if there is one."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] != "http" or scope["path"] in _OPEN_PATHS
        if self._expected is not None and not is_open:
            found = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(found, self._expected):
                msg = 'the key is missing or wrong: expected a header "Authorization: Bearer KEY"'
                error = ApiError(401, msg, code="invalid_api_key")
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _on_api_error(_: HttpRequest, reason: Exception) -> Response:
    assert isinstance(reason, ApiError)
    return reason.response()


async def _on_error(_: HttpRequest, reason: Exception) -> Response:
    assert isinstance(reason, LlmpqError)
    return ApiError.of(reason).response()


async def _on_gone(_: HttpRequest, __: Exception) -> Response:
    """Answers a client that left before its request was complete, which nobody reads."""
    return Response(status_code=CLIENT_GONE)


async def _on_unknown_path(http: HttpRequest, _: Exception) -> Response:
    msg = f"there is nothing at {http.url.path}"
    return ApiError(404, msg, code="not_found").response()


async def _on_wrong_method(http: HttpRequest, _: Exception) -> Response:
    msg = f"{http.url.path} takes no {http.method} requests"
    return ApiError(405, msg, code="method_not_allowed").response()


async def _on_bug(http: HttpRequest, reason: Exception) -> Response:
    _logger.error("%s failed", http.url.path, exc_info=reason)
    msg = "the server failed at this request: see its log"
    return ApiError(500, msg, type="server_error").response()
