"""A device that fails while prompts are served, and the plan that follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.result_line import Result
from llmpq_jax.runtime.engines.engine import DeviceFailedError, StageFailedError
from llmpq_jax.runtime.engines.local import LocalEngine, start_local
from llmpq_jax.runtime.request import Sampling
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.message import Message
from llmpq_jax.tasks.generate import Served, ServeSettings, serve_prompts
from tests.support.tiny_models import make_strategy, write_tiny_model

LINES: list[Prompt | BadLine] = [
    Prompt(
        number=number,
        custom_id=f"line-{number}",
        contents=("def f"[: 1 + number % 5],),
        where=f"line {number}",
        form="completion" if number % 3 == 0 else "plain",
        num_choices=3 if number % 3 == 0 else 1,
        max_new_tokens=3 + 5 * number % 9,
        sampling=Sampling(temperature=0.8 * (number % 2), seed=number),
        top_logprobs=1 if number == 4 else None,
    )
    for number in range(1, 9)
]
LINES.insert(3, BadLine(number=9, custom_id="bad", where="line 9", reason="is bad"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def plans(folder: Path) -> list[Strategy]:
    """Three plans of the same bits, cut differently."""
    return [
        make_strategy(folder, [((0,), [16]), ((1,), [8])], new_tokens=16),
        make_strategy(folder, [((0,), [16, 8])], new_tokens=16),
        make_strategy(folder, [((1,), [16, 8])], new_tokens=16, prefill=1, decode=4),
    ]


class Failing(LocalEngine):
    """Fails for good after a number of messages."""

    num_left: int

    def next_result(self) -> Message:
        if self.num_left <= 0:
            msg = "lost"
            raise StageFailedError(msg)
        self.num_left -= 1
        return super().next_result()

    def recover(self, failure: StageFailedError) -> None:
        msg = "a device is gone"
        lost = DeviceFailedError(msg, devices=("node0/cpu:1",), nodes=("node0",))
        raise lost from failure


def failing_after(loaded: LocalEngine, num_left: int) -> Failing:
    loaded.close()
    failing = Failing(loaded.workers)
    failing.num_left = num_left
    return failing


def serve(
    plans: list[Strategy], failures: list[int], *, restarts: bool = False
) -> tuple[list[Result], Served]:
    """Serves the lines; the first plans fail after these numbers of messages."""
    left = iter(failures)
    others = iter(plans[1:])

    def start(strategy: Strategy, *, on_layer: Callable[[], None]) -> LocalEngine:
        num_left = next(left, None)
        loaded = start_local(strategy, on_layer=on_layer)
        return loaded if num_left is None else failing_after(loaded, num_left)

    results: list[Result] = []
    served = serve_prompts(
        plans[0],
        LINES,
        ServeSettings(start=start, ignores_eos=True, restarts_unfinished=restarts),
        on_result=results.append,
        solve_again=lambda _: next(others),
    )
    return results, served


def said(results: list[Result]) -> dict[str, object]:
    assert len({each.line.custom_id for each in results}) == len(results) == len(LINES)
    return {
        each.line.custom_id: [
            (completion.token_ids, completion.text, len(completion.logprobs or ()))
            for completion in each.completions
        ]
        for each in results
    }


@pytest.fixture(scope="module")
def expected(plans: list[Strategy]) -> dict[str, object]:
    results, _ = serve(plans, [])
    return said(results)


@pytest.mark.parametrize(
    ("failures", "restarts"),
    [
        ([0], False),
        ([9], True),
        pytest.param([5, 5], False, marks=pytest.mark.full),
        pytest.param([9], False, marks=pytest.mark.full),
        pytest.param([9, 0], False, marks=pytest.mark.full),
    ],
)
def test_every_line_has_one_result_that_names_its_plans(
    plans, expected, failures, restarts
):
    results, served = serve(plans, failures, restarts=restarts)
    assert said(results) == expected
    assert served.strategy == plans[len(failures)]
    assert served.bad_lines == (LINES[3], 1)
    names = [plan_name(strategy_fingerprint(plan)) for plan in plans]
    plan_names = [each.plans for each in results if isinstance(each.line, Prompt)]
    for each in plan_names:
        assert list(each) == [name for name in names if name in each]
    if restarts:
        assert all(
            len(each.plans) == 1
            for each in results
            if isinstance(each.line, Prompt) and each.line.num_choices == 1
        )
        return
    # A plan that failed at once has made nothing.
    made = [name for name, count in zip(names, [*failures, 1], strict=False) if count]
    assert set(made) == {name for each in plan_names for name in each}
    assert any(len(each) > 1 for each in plan_names) == (max(failures) > 0)


def test_without_another_plan_the_failure_ends_the_run(plans):
    def start(strategy: Strategy, *, on_layer: Callable[[], None]) -> LocalEngine:
        return failing_after(start_local(strategy, on_layer=on_layer), 2)

    with pytest.raises(
        DeviceFailedError,
        match=r"^a device is gone: see Ray's logs on that machine, then run",
    ):
        serve_prompts(plans[0], LINES, ServeSettings(start=start, ignores_eos=True))
