"""The continuations of one HTTP request, as they come from the serving loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from llmpq_jax.runtime.request import Completion, Request, TokenLogprobs
from llmpq_jax.runtime.serving_loop import ServedRequest, ServingLoop
from llmpq_jax.runtime.streamed_text import StreamedText
from llmpq_jax.server.metrics import RequestTimes


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a continuation.

    Attributes:
        index: Number of the continuation.
        text: Text that is added; parts joined are the text of the completion.
        token_ids: Tokens that are added.
        logprobs: Log-probabilities of these tokens, empty unless asked for.
        completion: Whole continuation, with the last part.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    completion: Completion | None = None


class _Listener:
    """Hands what a sequence adds to an asyncio loop."""

    def __init__(
        self, index: int, parts: asyncio.Queue[tuple[int, Part, bool]]
    ) -> None:
        self._index = index
        self._parts = parts
        self._loop = asyncio.get_running_loop()

    def __call__(
        self,
        token_ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...],
        *,
        is_finished: bool,
    ) -> None:
        part = Part(index=self._index, token_ids=token_ids, logprobs=logprobs)
        # The asyncio loop may have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(
                self._parts.put_nowait, (self._index, part, is_finished)
            )


class Generation:
    """Continuations of one HTTP request; those that are not finished end with `close`."""

    def __init__(
        self, serving: ServingLoop, requests: Sequence[Request], times: RequestTimes
    ) -> None:
        """Takes one request for each continuation."""
        self._serving = serving
        self._requests = requests
        self._times = times
        self._parts: asyncio.Queue[tuple[int, Part, bool]] = asyncio.Queue()
        self._listeners = [
            _Listener(index, self._parts) for index in range(len(requests))
        ]
        self._served: list[ServedRequest] = []
        self._is_closed = False
        tokenizer = serving.pipeline.tokenizer
        self._texts = [
            StreamedText(
                tokenizer.text_decoder(request.token_ids),
                request.stop,
                eos_ids=() if request.ignores_eos else tokenizer.eos_ids,
            )
            for request in requests
        ]

    async def submit(self) -> None:
        """Submits the requests; grammars are compiled in another thread.

        Raises:
            RequestError: The strategy cannot serve one of them.
            QueueFullError: As many requests wait as may.
            NotServingError: The server is ending.
        """
        try:
            await run_in_threadpool(self._submit)
        except BaseException:
            self.close()
            raise

    def _submit(self) -> None:
        for request, listener in zip(self._requests, self._listeners, strict=True):
            served = self._serving.submit(request, listener)
            self._served.append(served)
            if self._is_closed:
                served.cancel()

    async def parts(self) -> AsyncIterator[Part]:
        """Yields parts of all continuations until all are finished."""
        num_unfinished = len(self._served)
        while num_unfinished:
            index, part, is_finished = await self._parts.get()
            text, completion = self._texts[index].add(part.token_ids), None
            self._times.add(index, len(part.token_ids))
            if is_finished:
                num_unfinished -= 1
                completion = self._served[index].completion()
                self._times.end(completion)
                text += self._texts[index].rest(completion.text)
            yield Part(
                index=index,
                text=text,
                token_ids=part.token_ids,
                logprobs=part.logprobs,
                completion=completion,
            )

    async def completions(self) -> list[Completion]:
        """Returns all continuations once they are finished, in order."""
        found: dict[int, Completion] = {}
        async for part in self.parts():
            if part.completion is not None:
                found[part.index] = part.completion
        return [found[index] for index in range(len(self._served))]

    def close(self) -> None:
        """Cancels what is not finished, and what is being submitted."""
        self._is_closed = True
        for served in self._served:
            if not served.sequence.is_finished:
                served.cancel()
