"""How far a run is, so that it may go on under another plan when a device is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.results import Result
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.runtime.request import Completion, PartialCompletion

# A line and the number of the choice: what a request is known by.
RequestKey = tuple[Prompt, int]
_Plans = tuple[str, ...]


class Progress:
    """What of a run's lines is told, what has ended and waits, and what was begun.

    It holds what is between: no more requests than a batch has rows, and the choices of
    their prompts.
    """

    def __init__(self) -> None:
        """Starts with nothing."""
        self._told = IdIndex()
        self._ended: dict[str, dict[int, tuple[Completion, _Plans]]] = {}
        self._begun: dict[tuple[str, int], tuple[PartialCompletion, _Plans]] = {}

    def teller(
        self, on_result: Callable[[Result], None]
    ) -> Callable[[Prompt | BadLine, Result], None]:
        """Returns what tells results and remembers of which lines."""

        def tell(line: Prompt | BadLine, result: Result) -> None:
            on_result(result)
            self._told.add(line.custom_id, line.number)

        return tell

    def is_told(self, line: Prompt | BadLine) -> bool:
        """Whether the result of a line has been told."""
        return self._told.find(line.custom_id) is not None

    def has_ended(self, line: Prompt, index: int) -> bool:
        """Whether a choice of a line is there, and waits for the others."""
        return index in self._ended.get(line.custom_id, {})

    def begun(self, line: Prompt, index: int) -> PartialCompletion:
        """Returns what a request has of earlier plans."""
        return self._begun.get((line.custom_id, index), (PartialCompletion(), ()))[0]

    def keep_partial(
        self, unfinished: Iterable[tuple[RequestKey, PartialCompletion]], *, plan: str
    ) -> None:
        """Takes what requests have that a plan could not finish."""
        for (line, index), begun in unfinished:
            key = (line.custom_id, index)
            _, plans = self._begun.get(key, (PartialCompletion(), ()))
            self._begun[key] = begun, (*plans, plan)

    def forget_partial(self) -> None:
        """Has every request that has not ended start again."""
        self._begun.clear()

    def gathered(
        self,
        stream: Iterable[tuple[RequestKey, Completion]],
        tokenizer: Tokenizer,
        *,
        plan: str,
    ) -> Iterator[Result]:
        """Yields a result for each prompt once all its choices have ended.

        Args:
            stream: What ends under a plan.
            tokenizer: Of the model.
            plan: Its name.
        """
        for (prompt, index), completion in stream:
            name = prompt.custom_id
            _, before = self._begun.pop((name, index), (None, ()))
            choices = self._ended.setdefault(name, {})
            choices[index] = completion, (*before, plan)
            if len(choices) == prompt.num_choices:
                del self._ended[name]
                with_devices = [choices[number] for number in range(len(choices))]
                plans = [each for _, plans in with_devices for each in plans]
                yield Result(
                    line=prompt,
                    completions=tuple(completion for completion, _ in with_devices),
                    plans=tuple(dict.fromkeys(plans)),
                    token_text=lambda token_id: tokenizer.decode([token_id]),
                )

    def close(self) -> None:
        """Forgets all of it."""
        self._told.close()
