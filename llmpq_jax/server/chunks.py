"""Answers in parts: OpenAI's server-sent events, one JSON object each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llmpq_jax.batch.logprobs import LogprobsWriter
from llmpq_jax.batch.openai_response import (
    FINISH_REASONS,
    answer_splitter,
    echoed_text,
    response_id,
    usage_values,
)
from llmpq_jax.batch.prompt import Prompt
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.files import json_text
from llmpq_jax.runtime.request import Completion, Request
from llmpq_jax.server.errors import ApiError
from llmpq_jax.server.generation import Generation, Part

DONE = b"data: [DONE]\n\n"


def event(values: dict[str, Any]) -> bytes:
    """Returns one server-sent event."""
    return f"data: {json_text(values, ensure_ascii=False)}\n\n".encode()


class ChunkWriter:
    """Writes the parts of an answer as chunks; each continuation has an index."""

    def __init__(
        self,
        prompt: Prompt,
        requests: Sequence[Request],
        *,
        model: str,
        tokenizer: Tokenizer,
        includes_usage: bool,
    ) -> None:
        """Takes the prompt with its requests, and the name of the model for the client."""
        self._prompt = prompt
        self._requests = requests
        self._tokenizer = tokenizer
        self._includes_usage = includes_usage
        self._is_chat = is_chat = prompt.form == "chat"
        self._common = {
            "id": response_id(is_chat=is_chat),
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._splitters = [
            answer_splitter(prompt, each.token_ids, tokenizer) for each in requests
        ]
        self._logprobs = [
            LogprobsWriter(tokenizer.text_decoder(each.token_ids), is_chat=is_chat)
            for each in requests
        ]

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """Yields the events of an answer; if it fails, the error is the last one."""
        completions: dict[int, Completion] = {}
        for index, request in enumerate(self._requests):
            if self._is_chat:
                yield self._chunk(index, {"role": "assistant", "content": ""})
            elif self._prompt.echoes:
                text = echoed_text(
                    self._prompt, index, request.token_ids, self._tokenizer
                )
                yield self._chunk(index, {"text": text})
        async for part in generation.parts():
            for values in self._of_part(part):
                yield values
            if part.completion is None:
                continue
            completions[part.index] = part.completion
            if part.completion.error is not None:
                error = ApiError(500, part.completion.error, type="server_error")
                yield event(error.values())
                return
        if self._includes_usage:
            found = [completions[index] for index in sorted(completions)]
            usage = usage_values(self._prompt, found)
            yield event({**self._common, "choices": [], "usage": usage})
        yield DONE

    def _of_part(self, part: Part) -> Iterator[bytes]:
        """Yields the events of a part, and the reason of the end after the last one."""
        completion = part.completion
        if completion is not None and completion.error is not None:
            return
        logprobs = self._logprobs_of(part)
        reason = None
        if completion is not None:
            reason = FINISH_REASONS[completion.finish_reason]
        if self._is_chat:
            deltas, has_calls = self._chat_deltas(part)
            reason = "tool_calls" if has_calls else reason
            empty = {"content": ""}
        else:
            deltas = [{"text": part.text}] if part.text else []
            empty = {"text": ""}
        if self._prompt.is_prompt_only:
            deltas, reason = [], reason and "length"
        if logprobs is not None and not deltas:
            deltas = [empty]
        for number, delta in enumerate(deltas):
            yield self._chunk(part.index, delta, logprobs=None if number else logprobs)
        if reason is not None:
            yield self._chunk(part.index, {} if self._is_chat else empty, reason=reason)

    def _chat_deltas(self, part: Part) -> tuple[list[dict[str, Any]], bool]:
        """Returns what a part adds to a message, and whether tools are called."""
        splitter = self._splitters[part.index]
        texts, calls = list(splitter.add(part.text)), []
        if part.completion is not None:
            rest, calls = splitter.end()
            texts += rest
        keys = {"reasoning": "reasoning_content", "content": "content"}
        deltas: list[dict[str, Any]] = [{keys[each]: text} for each, text in texts]
        if calls:
            values = [
                {"index": number, **call.values()} for number, call in enumerate(calls)
            ]
            deltas.append({"tool_calls": values})
        return deltas, bool(calls)

    def _logprobs_of(self, part: Part) -> dict[str, Any] | None:
        if self._prompt.top_logprobs is None:
            return None
        completion = part.completion
        is_eos = completion is not None and completion.finish_reason == "eos"
        num_tokens = len(part.token_ids) - is_eos
        if not num_tokens:
            return None
        return self._logprobs[part.index].add(
            part.token_ids[:num_tokens],
            part.logprobs[:num_tokens],
            is_end=completion is not None,
        )

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> bytes:
        answer = {"delta": delta} if self._is_chat else delta
        choice = {
            "index": index,
            **answer,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        values = {**self._common, "choices": [choice]}
        if self._includes_usage:
            values["usage"] = None
        return event(values)
