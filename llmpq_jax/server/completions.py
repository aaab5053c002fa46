"""The two endpoints that continue prompts, whole or as a stream of events."""

from __future__ import annotations

import asyncio

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from llmpq_jax.batch.openai import ChatBody, CompletionBody
from llmpq_jax.batch.openai_response import response_values
from llmpq_jax.batch.prompt import Prompt
from llmpq_jax.errors import RequestError
from llmpq_jax.server.bodies import read_json
from llmpq_jax.server.chunks import ChunkWriter
from llmpq_jax.server.errors import CLIENT_GONE, ApiError
from llmpq_jax.server.event_stream import EventStream, wait_until_gone
from llmpq_jax.server.generation import Generation
from llmpq_jax.server.metrics import RequestTimes
from llmpq_jax.server.state import ServerState


class Completions:
    """The endpoints /v1/chat/completions and /v1/completions."""

    def __init__(self, state: ServerState) -> None:
        """Takes what the routes share."""
        self._state = state

    async def chat(self, http: HttpRequest) -> ASGIApp:
        """Continues a conversation, to the end of the context if it says no maximum."""
        return await self._continue(http, ChatBody)

    async def completions(self, http: HttpRequest) -> ASGIApp:
        """Continues texts, by 16 tokens if it says no maximum."""
        return await self._continue(http, CompletionBody)

    async def _continue(
        self, http: HttpRequest, kind: type[ChatBody | CompletionBody]
    ) -> ASGIApp:
        settings, served = self._state.settings, self._state.served
        values = await read_json(http, settings)
        times = RequestTimes(self._state.metrics)
        body = served.maker.parse(kind, values)
        prompt = served.maker.prompt(body)
        if body.stream and prompt.echoes and prompt.top_logprobs is not None:
            msg = "stream: found True with echo and logprobs: expected at most two of them"
            raise RequestError(msg)
        # Tokenising a long text takes a while, in which others are served.
        requests = await run_in_threadpool(served.maker.requests, prompt)
        generation = Generation(served.serving, requests, times)
        await generation.submit()
        if not body.stream:
            return await self._whole(http, prompt, generation)
        options = body.stream_options
        writer = ChunkWriter(
            prompt,
            requests,
            model=settings.model_name,
            tokenizer=served.pipeline.tokenizer,
            includes_usage=options is not None and options.include_usage,
        )
        return EventStream(
            writer.events(generation),
            on_end=generation.close,
        )

    async def _whole(
        self, http: HttpRequest, prompt: Prompt, generation: Generation
    ) -> Response:
        """Returns the answer when it is complete, unless the client is gone before."""
        gone = asyncio.create_task(wait_until_gone(http.receive))
        answer = asyncio.create_task(generation.completions())
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=CLIENT_GONE)
            completions = answer.result()
        finally:
            gone.cancel()
            answer.cancel()
            generation.close()
        failed = next((each.error for each in completions if each.error), None)
        if failed is not None:
            raise ApiError(500, failed, type="server_error")
        values = response_values(
            prompt,
            completions,
            model=self._state.settings.model_name,
            tokenizer=self._state.served.pipeline.tokenizer,
        )
        return JSONResponse(values)
