"""Results of a batch run in the making, kept when the run continues under another plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.result_line import Result
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import Completion, PartialCompletion

# A prompt and the index of one of its choices.
RequestKey = tuple[Prompt, int]
_Plans = tuple[str, ...]


class ReorderBuffer:
    """Reorder buffer of a batch run.

    It holds which lines have their result, the choices that wait for others of their
    prompt, and the partial completions of requests that a plan could not finish: no
    more than the requests of one batch and the choices of their prompts.

    Attributes:
        failed: First prompt that the model failed at, as a bad line, and the number of
            such prompts; None if there was none.
    """

    def __init__(self, on_result: Callable[[Result], None]) -> None:
        """Starts empty; the callback is for each result once it is complete."""
        self.failed: tuple[BadLine, int] | None = None
        self._on_result = on_result
        self._written = IdIndex()
        self._waiting: dict[str, dict[int, tuple[Completion, _Plans]]] = {}
        self._partial: dict[tuple[str, int], tuple[PartialCompletion, _Plans]] = {}

    def write(self, result: Result) -> None:
        """Passes on the result of a line, which is done from now on."""
        self._on_result(result)
        self._written.add(result.line.custom_id, result.line.number)

    def is_written(self, line: Prompt | BadLine) -> bool:
        """Whether the result of a line has been written."""
        return self._written.find(line.custom_id) is not None

    def is_waiting(self, prompt: Prompt, index: int) -> bool:
        """Whether a choice is complete and waits for others of its prompt."""
        return index in self._waiting.get(prompt.custom_id, {})

    def partial(self, prompt: Prompt, index: int) -> PartialCompletion:
        """Returns the tokens of a choice that earlier plans generated."""
        key = (prompt.custom_id, index)
        return self._partial.get(key, (PartialCompletion(), ()))[0]

    def add_partial(
        self, unfinished: Iterable[tuple[RequestKey, PartialCompletion]], *, plan: str
    ) -> None:
        """Adds requests that a plan could not finish, with the plan's name."""
        for (prompt, index), partial in unfinished:
            key = (prompt.custom_id, index)
            _, plans = self._partial.get(key, (PartialCompletion(), ()))
            self._partial[key] = partial, (*plans, plan)

    def drop_partial(self) -> None:
        """Drops all partial completions, so that unfinished requests start again."""
        self._partial.clear()

    def write_complete(
        self,
        stream: Iterable[tuple[RequestKey, Completion]],
        tokenizer: Tokenizer,
        *,
        plan: str,
    ) -> None:
        """Writes the result of each prompt once all its choices are complete."""
        for (prompt, index), completion in stream:
            name = prompt.custom_id
            _, earlier = self._partial.pop((name, index), (None, ()))
            waiting = self._waiting.setdefault(name, {})
            waiting[index] = completion, (*earlier, plan)
            if len(waiting) == prompt.num_requests:
                del self._waiting[name]
                choices = [waiting[number] for number in range(prompt.num_requests)]
                errors = [each.error for each, _ in choices if each.error is not None]
                if errors:
                    self._write_failed(prompt, errors[0])
                    continue
                plans = [each for _, plans in choices for each in plans]
                self.write(
                    Result(
                        line=prompt,
                        completions=tuple(completion for completion, _ in choices),
                        plans=tuple(dict.fromkeys(plans)),
                        tokenizer=tokenizer,
                    )
                )

    def _write_failed(self, prompt: Prompt, error: str) -> None:
        """Writes the error of a prompt of which the model made no text."""
        line = BadLine.of(prompt, RequestError(error), code="server_error")
        first, count = self.failed or (line, 0)
        self.failed = first, count + 1
        self.write(Result(line=line))

    def close(self) -> None:
        """Deletes the temporary file."""
        self._written.close()
