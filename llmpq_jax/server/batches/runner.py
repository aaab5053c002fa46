"""Answers batches in the slots that other clients leave free, and survives restarts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.batch.manifest import make_manifest, manifest_path
from llmpq_jax.batch.prompt import BadLine, Prompt, PromptDefaults
from llmpq_jax.batch.prompt_file import PromptFile
from llmpq_jax.batch.prompt_line import MAX_CHOICES
from llmpq_jax.batch.result_line import Result, result_values
from llmpq_jax.batch.results_file import ResultsFile
from llmpq_jax.errors import LlmpqError, RequestError
from llmpq_jax.runtime.serving_loop import NotServingError, QueueFullError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.server.batches.stored_batches import Batch, StoredBatches
from llmpq_jax.server.batches.stored_files import StoredFiles
from llmpq_jax.server.errors import ApiError
from llmpq_jax.server.generation import Generation
from llmpq_jax.server.metrics import RequestTimes
from llmpq_jax.server.state import Served, ServerState

P = ParamSpec("P")
T = TypeVar("T")
_logger = logging.getLogger(__name__)
_POLL_S = 0.1
ENDPOINTS = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}


class BatchRunner:
    """Answers the batches of a folder one after the other, the oldest first.

    A request is submitted only while a slot is free and no other client's request waits.
    Each result is on disk before it counts: after a restart a batch goes on where it was.
    """

    def __init__(
        self, state: ServerState, files: StoredFiles, batches: StoredBatches
    ) -> None:
        """Takes what the routes share, and the folder's content."""
        self._state = state
        self._files = files
        self._batches = batches
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Has the runner look for what has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Answers batches until it is cancelled."""
        while True:
            self._wake.clear()
            batch = self._batches.next()
            if batch is None:
                await self._wake.wait()
                continue
            try:
                await _BatchRun(self._state, self._files, self._batches, batch).run()
            except LlmpqError as reason:
                await self._fail(batch.id, str(reason))
            except Exception:
                _logger.exception("batch %s failed", batch.id)
                text = "the server failed at this batch: see its log"
                await self._fail(batch.id, text)

    async def _fail(self, batch_id: str, reason: str) -> None:
        """Ends a batch with the results that it has."""
        batch = self._batches.find(batch_id)
        assert batch is not None
        found = {}
        with suppress(LlmpqError, ValueError, OSError):
            path = self._batches.results_path(batch_id)
            found = await asyncio.to_thread(_sorted, self._files, batch_id, path)
        failed = batch.at("failed", error=" ".join(reason.split()), **found)
        # On a full disk it fails again after a restart.
        self._batches.note(failed)
        with suppress(RequestError):
            self._batches.save(failed)


class _BatchRun:
    """One run of one batch."""

    def __init__(
        self,
        state: ServerState,
        files: StoredFiles,
        batches: StoredBatches,
        batch: Batch,
    ) -> None:
        self._state = state
        self._files = files
        self._batches = batches
        self._id = batch.id
        # The index of names is used by the thread that made it alone.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="batch")

    @property
    def _batch(self) -> Batch:
        found = self._batches.find(self._id)
        assert found is not None
        return found

    @property
    def _seed(self) -> int:
        return int(self._id.removeprefix("batch_")[:15], 16)

    async def run(self) -> None:
        try:
            await self._run()
        except LlmpqError as reason:
            # Clients know the file by its name alone.
            file_id = self._batch.input_file_id
            path = str(self._files.path(file_id))
            raise RequestError(str(reason).replace(path, file_id)) from reason
        finally:
            # Waits for what is being written; this thread has nothing else to do then.
            await asyncio.shield(asyncio.to_thread(self._disk.shutdown))

    async def _run(self) -> None:
        file_id = self._batch.input_file_id
        if self._files.find(file_id) is None:
            msg = f"the file {file_id} was deleted before it was answered"
            raise RequestError(msg)
        served = await self._served()
        # Each line gets seeds of its own, the same ones after a restart.
        sampling = replace(served.maker.sampling, seed=self._seed)
        defaults = PromptDefaults(sampling=sampling)
        prompts = PromptFile(self._files.path(file_id), defaults)
        if not self._batch.num_lines:
            num_lines = await self._on_disk(_count, prompts)
            self._batches.note(replace(self._batch, num_lines=num_lines))
        if self._batch.status == "validating":
            self._batches.save(self._batch.at("in_progress"))
        path = self._batches.results_path(self._id)
        strategy = served.pipeline.strategy
        results = await self._on_disk(_open, path, strategy, prompts, defaults)
        num_failed = results.num_kept_errors
        num_completed = results.num_kept - num_failed
        # Here, since other threads would undo what clients change meanwhile.
        self._batches.note(
            replace(self._batch, num_completed=num_completed, num_failed=num_failed)
        )
        try:
            await self._answer(prompts, results)
        finally:
            await asyncio.shield(self._on_disk(results.close))
        await self._finish()

    async def _answer(self, prompts: PromptFile, results: ResultsFile) -> None:
        """Answers all lines without a result, unless the batch is cancelled meanwhile."""
        tasks: set[asyncio.Task[None]] = set()
        lines = iter(prompts)
        try:
            while self._batch.status != "cancelling":
                tasks = _unfinished(tasks)
                if not await self._has_room(len(tasks)):
                    await _wait(tasks)
                    continue
                line = await self._on_disk(_next_without_result, lines, results)
                if line is None:
                    break
                tasks.add(asyncio.create_task(self._answer_line(line, results)))
            while tasks and self._batch.status != "cancelling":
                await _wait(tasks)
                tasks = _unfinished(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.shield(self._on_disk(lines.close))

    async def _has_room(self, num_tasks: int) -> bool:
        """Whether a slot is free that nobody else waits for."""
        serving = (await self._served()).serving
        # A task that was made just now may not have submitted its requests yet.
        return max(num_tasks, serving.num_unfinished) < serving.shape.num_rows

    async def _answer_line(self, line: Prompt | BadLine, results: ResultsFile) -> None:
        strategies: tuple[str, ...] = ()
        if isinstance(line, Prompt):
            try:
                result, strategies = await self._result(line)
            except RequestError as reason:
                result = Result(line=BadLine.of(line, reason))
        else:
            result = Result(line=line)
        await asyncio.shield(self._record(result, results, strategies))

    async def _record(
        self, result: Result, results: ResultsFile, strategies: Sequence[str]
    ) -> None:
        """Writes a result, then counts it."""
        values = result_values(result, model=self._state.settings.model_name)
        await self._on_disk(_add, results, values, strategies)
        batch, is_bad = self._batch, isinstance(result.line, BadLine)
        self._batches.note(
            replace(
                batch,
                num_completed=batch.num_completed + (not is_bad),
                num_failed=batch.num_failed + is_bad,
            )
        )

    async def _result(self, prompt: Prompt) -> tuple[Result, tuple[str, ...]]:
        """Returns the result of a line, and the fingerprints of what served it.

        Raises:
            RequestError: The line cannot be served.
        """
        self._check(prompt)
        if prompt.sampling.seed == self._seed:
            steps = prompt.number * MAX_CHOICES
            sampling = prompt.sampling.with_next_seed(steps)
            prompt = replace(prompt, sampling=sampling)
        while True:
            served = await self._served()
            requests = await asyncio.to_thread(served.maker.requests, prompt)
            times = RequestTimes(self._state.metrics)
            generation = Generation(served.serving, requests, times)
            try:
                await generation.submit()
                completions = await generation.completions()
            except (QueueFullError, NotServingError):
                await asyncio.sleep(_POLL_S)
                continue
            finally:
                generation.close()
            failed = next((each.error for each in completions if each.error), None)
            if failed is not None and served.serving.error is None:
                # The model's fault, not the server's: another try would not help.
                line = BadLine.of(prompt, RequestError(failed), code="server_error")
                return Result(line=line), ()
            if failed is None:
                break
            await asyncio.sleep(_POLL_S)
        # Another plan may have finished what one began.
        strategies = [each.pipeline.strategy for each in (served, await self._served())]
        names = tuple(dict.fromkeys(map(strategy_fingerprint, strategies)))
        result = Result(
            line=prompt,
            completions=tuple(completions),
            plans=tuple(map(plan_name, names)),
            tokenizer=served.pipeline.tokenizer,
        )
        return result, names

    def _check(self, prompt: Prompt) -> None:
        """Refuses a line that is not for the batch's endpoint, or not for this model."""
        endpoint, name = self._batch.endpoint, self._state.settings.model_name
        if prompt.form != ENDPOINTS[endpoint]:
            msg = f"url: expected {endpoint!r}, the batch's endpoint"
            raise RequestError(msg)
        if prompt.model is not None and prompt.model != name:
            msg = f"model: found {prompt.model!r}, expected {name!r}"
            raise RequestError(msg)

    async def _finish(self) -> None:
        """Sorts the results into two files, and ends the batch."""
        batch = self._batch
        is_cancelled = batch.status == "cancelling"
        if not is_cancelled:
            batch = batch.at("finalizing")
            self._batches.save(batch)
        path = self._batches.results_path(self._id)
        found = await self._on_disk(_sorted, self._files, self._id, path)
        status = "cancelled" if is_cancelled else "completed"
        self._batches.save(self._batch.at(status, **found))
        path.unlink(missing_ok=True)
        manifest_path(path).unlink(missing_ok=True)

    async def _served(self) -> Served:
        """Returns what the model is served with, once it is."""
        while True:
            try:
                return self._state.served
            except ApiError:
                await asyncio.sleep(_POLL_S)

    async def _on_disk(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)


async def _wait(tasks: set[asyncio.Task[None]]) -> None:
    """Waits until a task is done, or a moment."""
    if tasks:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait(tasks, timeout=_POLL_S, return_when=first)
    else:
        await asyncio.sleep(_POLL_S)


def _add(
    results: ResultsFile, values: dict[str, Any], strategies: Sequence[str]
) -> None:
    for fingerprint in strategies:
        results.add_strategy(fingerprint)
    results.add(values)


def _open(
    path: Path, strategy: Strategy, prompts: PromptFile, defaults: PromptDefaults
) -> ResultsFile:
    """Opens the results so far, which must be of the same model and plan."""
    manifest = make_manifest(
        strategy, prompts, defaults, is_chat=False, ignores_eos=False
    )
    return ResultsFile(path, if_exists="resume", manifest=manifest)


def _count(prompts: PromptFile) -> int:
    return sum(1 for _ in prompts)


def _next_without_result(
    lines: Iterator[Prompt | BadLine], results: ResultsFile
) -> Prompt | BadLine | None:
    return next((line for line in lines if not results.has(line.custom_id)), None)


def _unfinished(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Returns the tasks that are not done; raises the error of one that failed."""
    for task in tasks:
        if task.done():
            task.result()
    return {task for task in tasks if not task.done()}


def _sorted(files: StoredFiles, batch_id: str, path: Path) -> dict[str, str | None]:
    """Sorts results into a file of answers and one of errors; returns their names."""
    found: dict[str, str | None] = {}
    for name, is_error in (("output", False), ("error", True)):
        file = files.add(f"{batch_id}_{name}.jsonl", _lines(path, is_error))
        found[f"{name}_file_id"] = file and file.id
    return found


def _lines(path: Path, is_error: bool) -> Iterator[bytes]:
    """Yields the results that are errors, or those that are not."""
    if not path.exists():
        return
    with closing(path.open("rb")) as file:
        for line in file:
            if (json.loads(line)["error"] is not None) == is_error:
                yield line
