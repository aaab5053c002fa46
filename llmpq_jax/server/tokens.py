"""Texts to tokens and back, as evaluation programs ask for it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from llmpq_jax.batch.openai import Message, OpenAIModel
from llmpq_jax.server.bodies import read_json
from llmpq_jax.server.state import ServerState


class TokenizeBody(OpenAIModel):
    """Body of a request to /tokenize: a text, or a conversation."""

    expected: ClassVar[str] = "an object"

    model: str | None = Field(None, description="a text")
    prompt: str | None = Field(None, description="a text")
    messages: list[Message] | None = Field(None, description="a list of messages")
    add_special_tokens: bool = Field(True, description="true or false")


class DetokenizeBody(OpenAIModel):
    """Body of a request to /detokenize."""

    expected: ClassVar[str] = "an object"

    model: str | None = Field(None, description="a text")
    tokens: list[int] = Field(description="a list of token ids")


class Tokens:
    """The endpoints /tokenize, /detokenize and /tokenizer_info."""

    def __init__(self, state: ServerState) -> None:
        """Takes what the routes share."""
        self._state = state

    async def tokenize(self, http: HttpRequest) -> Response:
        """Returns a text's tokens, as a request with the text would have them."""
        served = self._state.served
        values = await read_json(http, self._state.settings)
        body = TokenizeBody.parse(values, ignored=set())
        tokenizer = served.pipeline.tokenizer
        if body.messages is not None:
            messages = [each.for_template() for each in body.messages]
            token_ids = await run_in_threadpool(tokenizer.encode_chat, messages)
        else:
            text, adds = body.prompt or "", body.add_special_tokens
            token_ids = await run_in_threadpool(
                tokenizer.encode, text, adds_special_tokens=adds
            )
        return JSONResponse(
            {
                "tokens": list(token_ids),
                "count": len(token_ids),
                "max_model_len": served.maker.max_context,
            }
        )

    async def detokenize(self, http: HttpRequest) -> Response:
        """Returns the text of tokens, special ones included."""
        served = self._state.served
        values = await read_json(http, self._state.settings)
        body = DetokenizeBody.parse(values, ignored=set())
        served.maker.check_tokens(body.tokens)
        text = served.pipeline.tokenizer.decode(body.tokens, skips_special_tokens=False)
        return JSONResponse({"prompt": text})

    async def info(self, _: HttpRequest) -> Response:
        """Returns the special tokens, and the chat template."""
        info: dict[str, Any] = self._state.served.pipeline.tokenizer.info()
        return JSONResponse(info)
