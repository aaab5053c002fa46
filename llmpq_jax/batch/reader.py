"""Requests of the lines that are not done, for one strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.batch.prompt import BadLine, Prompt, prompt_grammar, prompt_tokens
from llmpq_jax.batch.reorder_buffer import ReorderBuffer, RequestKey
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.admission import check_request
from llmpq_jax.runtime.grammars import SequenceMaker
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.strategy import Strategy


class RequestReader:
    """Makes requests of lines, and bad lines of those that the strategy cannot serve.

    Attributes:
        bad_lines: First bad line and number of bad lines of the latest reading; None if
            there was none.
    """

    def __init__(
        self,
        strategy: Strategy,
        lines: Iterable[Prompt | BadLine],
        *,
        is_chat: bool,
        ignores_eos: bool,
        is_done: Callable[[str], bool],
        buffer: ReorderBuffer,
    ) -> None:
        """Loads the model's tokenizer.

        Lines are read any number of times. With `is_chat` plain prompts go through the
        checkpoint's chat template. `is_done` says of a line's name whether it had its
        result before the run.
        """
        folder = Path(strategy.model.path)
        self.bad_lines: tuple[BadLine, int] | None = None
        self._strategy = strategy
        self._lines = lines
        self._architecture = read_architecture(folder)
        self._tokenizer = Tokenizer.load(folder)
        self._sequence_maker = SequenceMaker(
            self._tokenizer, self._architecture.vocabulary_size
        )
        self._is_chat = is_chat
        self._ignores_eos = ignores_eos
        self._is_done = is_done
        self._buffer = buffer

    def requests(
        self, on_bad_line: Callable[[BadLine], None]
    ) -> Iterator[tuple[RequestKey, Request]]:
        """Reads all lines that are not done; each choice is a request."""
        self.bad_lines = None
        for line in self._lines:
            if self._is_done(line.custom_id) or self._buffer.is_written(line):
                continue
            made = line if isinstance(line, BadLine) else self._requests(line)
            if isinstance(made, BadLine):
                first, count = self.bad_lines or (made, 0)
                self.bad_lines = first, count + 1
                on_bad_line(made)
            else:
                assert isinstance(line, Prompt)
                for index in range(line.num_requests):
                    if self._buffer.is_waiting(line, index):
                        continue
                    number, choice = divmod(index, line.num_choices)
                    request = replace(
                        made[number],
                        sampling=line.sampling.with_next_seed(choice),
                        partial=self._buffer.partial(line, index),
                    )
                    yield (line, index), request

    def _requests(self, prompt: Prompt) -> tuple[Request, ...] | BadLine:
        """Returns the requests of a line's prompts, without their further choices."""
        planned = self._strategy.workload
        grammar = prompt_grammar(prompt, self._tokenizer)
        try:
            requests = tuple(
                Request(
                    token_ids=token_ids,
                    max_new_tokens=prompt.max_new_tokens or planned.new_tokens,
                    sampling=prompt.sampling,
                    stop=prompt.stop,
                    ignores_eos=self._ignores_eos
                    if prompt.ignores_eos is None
                    else prompt.ignores_eos,
                    top_logprobs=prompt.top_logprobs,
                    logit_changes=prompt.logit_changes,
                    grammar=grammar,
                )
                for token_ids in prompt_tokens(
                    prompt,
                    self._tokenizer,
                    is_chat=self._is_chat,
                    max_tokens=bucket_length(planned.prompt_length),
                )
            )
            for request in requests:
                check_request(request, self._strategy, self._architecture)
            if grammar is not None:
                self._sequence_maker.constraint(grammar)
        except RequestError as reason:
            return BadLine.of(prompt, reason)
        return requests
