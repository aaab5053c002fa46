"""Bodies of HTTP requests: read within limits of size and time, parsed, made to requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest

from llmpq_jax.batch.openai import ChatBody, CompletionBody
from llmpq_jax.batch.prompt import (
    Line,
    Prompt,
    PromptDefaults,
    prompt_grammar,
    prompt_tokens,
)
from llmpq_jax.batch.prompt_line import make_prompt, parse_json_line
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.admission import max_context
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Request, Sampling
from llmpq_jax.server.errors import ApiError
from llmpq_jax.server.settings import ServerSettings, with_own_seed

_logger = logging.getLogger(__name__)
_LINE = Line(number=0, custom_id="", where="request")


async def read_json(http: HttpRequest, settings: ServerSettings) -> Mapping[str, Any]:
    """Reads a body, which is a JSON object.

    Raises:
        ApiError: It is too large, comes too slowly, or is no JSON object.
    """
    try:
        async with asyncio.timeout(settings.read_timeout_s):
            body = await _read(http, settings.max_body_bytes)
    except TimeoutError as reason:
        msg = f"the body did not come within {settings.read_timeout_s:g} s"
        raise ApiError(408, msg) from reason
    try:
        return parse_json_line(body.decode())
    except (RequestError, UnicodeDecodeError) as reason:
        msg = f"the body {reason}"
        raise ApiError(400, msg) from reason


async def _read(http: HttpRequest, limit: int) -> bytes:
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > limit:
            msg = f"the body has more than {limit} bytes: expected a shorter one"
            raise ApiError(413, msg, code="request_too_large")
    return bytes(body)


class RequestMaker:
    """Makes what the serving loop takes from bodies of clients.

    Attributes:
        sampling: Sampling of requests that leave it open.
    """

    def __init__(
        self, pipeline: Pipeline, settings: ServerSettings, sampling: Sampling
    ) -> None:
        """Takes the sampling of requests that leave it open."""
        self._pipeline = pipeline
        self._settings = settings
        self.sampling = sampling
        self._logged: set[str] = set()

    @property
    def max_context(self) -> int:
        """Largest number of tokens of a prompt and its continuation together."""
        return max_context(self._pipeline.strategy, self._pipeline.architecture)

    def parse(
        self, kind: type[ChatBody | CompletionBody], values: Mapping[str, Any]
    ) -> ChatBody | CompletionBody:
        """Returns a body as a record; unknown fields are ignored, and logged once.

        Raises:
            RequestError: A known field has a value that is not served.
            ApiError: It asks for another model.
        """
        ignored: set[str] = set()
        body = kind.parse(values, ignored=ignored)
        for name in sorted(ignored - self._logged):
            self._logged.add(name)
            _logger.warning("field %r of a request is unknown: ignored", name[:80])
        if body.model is not None and body.model != self._settings.model_name:
            msg = f"the model {body.model!r} does not exist: expected {self._settings.model_name!r}"
            raise ApiError(404, msg, code="model_not_found", param="model")
        return body

    def prompt(self, body: ChatBody | CompletionBody) -> Prompt:
        """Returns a body as a prompt, its ranges checked.

        Raises:
            RequestError: A value is out of range.
        """
        sampling = self.sampling
        if body.seed is None:
            sampling = with_own_seed(sampling)
        return make_prompt(body, PromptDefaults(sampling=sampling), _LINE)

    def check_tokens(self, token_ids: Sequence[int]) -> None:
        """Refuses what is no token of the model.

        Raises:
            RequestError: One is outside the vocabulary.
        """
        size = self._pipeline.architecture.vocabulary_size
        for token_id in token_ids:
            if not 0 <= token_id < size:
                msg = f"tokens: found {token_id}, expected 0 to {size - 1}"
                raise RequestError(msg)

    def requests(self, prompt: Prompt) -> list[Request]:
        """Returns a request for each continuation of a prompt; tokenises its texts.

        Where the prompt says no maximum of new tokens, a chat has as many as the context
        has room for, and a completion those of the settings.

        Raises:
            RequestError: The chat template refuses the conversation, or a prompt is far
                too long.
        """
        most = self._settings.max_choices
        if prompt.num_requests > most:
            msg = f"n: found {prompt.num_requests} continuations in all, expected at most {most}"
            raise RequestError(msg)
        made: list[Request] = []
        is_chat = prompt.form == "chat"
        max_tokens = None if is_chat else self._settings.default_completion_tokens
        grammar = prompt_grammar(prompt, self._pipeline.tokenizer)
        for token_ids in prompt_tokens(
            prompt, self._pipeline.tokenizer, max_tokens=self.max_context
        ):
            room = max(1, self.max_context - len(token_ids))
            wants_prompt_logprobs = prompt.echoes and prompt.top_logprobs is not None
            request = Request(
                token_ids=token_ids,
                max_new_tokens=prompt.max_new_tokens or max_tokens or room,
                stop=prompt.stop,
                ignores_eos=bool(prompt.ignores_eos),
                top_logprobs=prompt.top_logprobs,
                wants_prompt_logprobs=wants_prompt_logprobs,
                logit_changes=prompt.logit_changes,
                grammar=grammar,
            )
            for choice in range(prompt.num_choices):
                sampling = prompt.sampling.with_next_seed(choice)
                made.append(replace(request, sampling=sampling))
        return made
