"""Pipelines: what they refuse, where they stop, and what they return."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from llmpq_jax.errors import RequestError, StrategyError
from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.runtime.batch_scheduler import BatchScheduler
from llmpq_jax.schema.record_files import write_strategy
from llmpq_jax.schema.strategy import StagePrediction, Strategy
from tests.support.local_workers import local_workers
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def strategy(folder: Path) -> Strategy:
    return make_strategy(folder, [((0,), [16]), ((1,), [8])])


@pytest.fixture(scope="module")
def pipeline(strategy: Strategy) -> Iterator[Pipeline]:
    with Pipeline.load(strategy) as loaded:
        yield loaded


def test_a_text_and_its_tokens_are_the_same_prompt(pipeline: Pipeline) -> None:
    ids = pipeline.tokenizer.encode("def f")
    by_text = pipeline.generate(["def f"])
    by_ids = pipeline.generate([list(ids)])
    assert by_text == by_ids
    assert by_text[0].num_prompt_tokens == len(ids)


def test_more_prompts_than_a_batch_keep_their_order(pipeline: Pipeline) -> None:
    prompts = [f"x{number}" for number in range(9)]
    together = pipeline.generate(prompts, max_new_tokens=3)
    alone = [pipeline.generate([prompt], max_new_tokens=3)[0] for prompt in prompts]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_the_longest_requests_are_served_first_and_yielded_in_order(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[int] = []

    def spy(**fields: Any) -> BatchScheduler:
        sequences = list(fields.pop("sequences"))
        served.extend(each.request.max_new_tokens for each in sequences)
        return BatchScheduler(sequences=sequences, **fields)

    monkeypatch.setattr("llmpq_jax.runtime.stream.BatchScheduler", spy)
    lengths = [2, 5, 1, 5, 3, 4, 1, 6, 2]
    requests = [
        Request(token_ids=(5, index), max_new_tokens=length, ignores_eos=True)
        for index, length in enumerate(lengths)
    ]
    completions = list(pipeline.serve(requests))
    assert served == sorted(lengths, reverse=True)
    assert [len(completion.token_ids) for completion in completions] == lengths


def test_a_seed_gives_the_same_text_whatever_shares_the_batch(
    pipeline: Pipeline,
) -> None:
    choice = Sampling(temperature=1.0, seed=7)
    alone = pipeline.generate(["abc"], sampling=choice)
    others = [Sampling(temperature=0.5, seed=seed) for seed in range(3)]
    among = pipeline.generate(
        ["q", "r", "abc", "s"], sampling=[*others[:2], choice, others[2]]
    )
    assert among[2].token_ids == alone[0].token_ids


def test_a_stop_text_ends_a_continuation_before_itself(pipeline: Pipeline) -> None:
    free = pipeline.generate(["stop here"], ignores_eos=True)[0]
    assert free.finish_reason == "length"
    stop = free.text[2:4]
    stopped = pipeline.generate(["stop here"], stop=[stop], ignores_eos=True)[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert len(stopped.token_ids) < len(free.token_ids)


def test_an_end_token_ends_a_continuation(folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    first = _first_token(model)
    (model / "generation_config.json").write_text(f'{{"eos_token_id": [{first}]}}')
    with Pipeline.load(make_strategy(model, [((0,), [16, 16])])) as loaded:
        ended = loaded.generate(["abc"])[0]
        ignored = loaded.generate(["abc"], ignores_eos=True)[0]
    assert ended.finish_reason == "eos"
    assert ended.token_ids == (first,)
    assert len(ignored.token_ids) == 8


def _first_token(model: Path) -> int:
    with Pipeline.load(make_strategy(model, [((0,), [16, 16])])) as loaded:
        return loaded.generate(["abc"], max_new_tokens=1)[0].token_ids[0]


def test_new_tokens_are_reported_as_they_come(pipeline: Pipeline) -> None:
    reported: list[int] = []
    completions = pipeline.generate(
        ["a", "bc"], ignores_eos=True, on_tokens=reported.append
    )
    assert sum(reported) == sum(len(c.token_ids) for c in completions) == 16
    assert len(reported) > 4


def test_caches_are_donated_and_freed(pipeline: Pipeline) -> None:
    pipeline.generate(["warm up"])
    before = sum(array.nbytes for array in jax.live_arrays())
    pipeline.generate(["again"])
    assert sum(array.nbytes for array in jax.live_arrays()) <= before


def test_a_batch_is_recorded(pipeline: Pipeline) -> None:
    pipeline.generate(["a", "b"], ignores_eos=True)
    record = pipeline.batches[-1]
    assert record.num_requests == 2
    assert record.num_new_tokens == 16
    for stage in record.stages:
        assert stage.prefill_s > 0
        assert stage.decode_s > 0
        assert stage.busy_s + stage.idle_s == pytest.approx(record.latency_s)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            Request(token_ids=(1,) * 17, max_new_tokens=1),
            "the prompt has 17 tokens: expected at most 16, which the strategy plans for",
        ),
        (
            Request(token_ids=(1,) * 16, max_new_tokens=17),
            "16 tokens and 17 new ones are requested: expected at most 32 together",
        ),
        (
            Request(token_ids=(1, 258), max_new_tokens=1),
            "token 258 is outside the model's vocabulary of 258",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused(
    pipeline: Pipeline, request_: Request, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        list(pipeline.serve([request_]))


def test_one_choice_for_all_or_one_for_each(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="2 sampling choices for 1 prompts"):
        pipeline.generate(["a"], sampling=[Sampling(), Sampling()])


@pytest.mark.parametrize("tokens", [[], [[]], [1, 2]])
def test_scoring_no_tokens_is_refused(pipeline: Pipeline, tokens: list) -> None:
    with pytest.raises(RequestError, match=r"expected \[batch, length\], not empty"):
        pipeline.score(tokens)


def test_scoring_rows_of_unequal_length_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="rows of unequal length"):
        pipeline.score([[1, 2], [3]])


def test_scores_are_the_same_in_every_batch(pipeline: Pipeline) -> None:
    rows = np.arange(15).reshape(5, 3)
    together = pipeline.score(rows)
    assert together.shape == (5, 3, 258)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together[[4]], pipeline.score(rows[[4]]))


def test_another_model_is_refused(strategy: Strategy, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", num_hidden_layers=2, seed=1)
    model = replace(strategy.model, path=str(other))
    with pytest.raises(StrategyError, match="the strategy is for the model sha256:"):
        Pipeline.load(replace(strategy, model=model))


def test_a_model_of_other_depth_is_refused(strategy: Strategy, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", num_hidden_layers=3)
    model = replace(strategy.model, path=str(other))
    with pytest.raises(StrategyError, match=r"is for 2 layers, the model in .* has 3"):
        Pipeline.load(replace(strategy, model=model))


def test_a_stage_that_overfills_its_device_is_refused(strategy: Strategy) -> None:
    tight = StagePrediction(prefill_s=1, decode_s=1, memory_bytes=1, allowed_bytes=1000)
    stages = (replace(strategy.stages[0], predicted=tight), strategy.stages[1])
    with Pipeline.load(replace(strategy, stages=stages)) as loaded:  # noqa: SIM117
        with pytest.raises(
            StrategyError, match=r"node0/cpu:0 needs .*it may use 1000 B"
        ):
            loaded.generate(["a"])


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("node0/cpu:8", "JAX finds 8 cpu devices here"),
        ("node0/tpu:0", "JAX finds no tpu here"),
        ("node0/gpu", "expected node/platform:number"),
        ("node1/cpu:0", "spans the nodes node0, node1: expected one"),
    ],
)
def test_missing_devices_are_refused(
    strategy: Strategy, device: str, message: str
) -> None:
    stages = (replace(strategy.stages[0], device=device), strategy.stages[1])
    with pytest.raises(StrategyError, match=message):
        Pipeline.load(replace(strategy, stages=stages))


def test_a_file_finds_its_model_from_its_own_folder(
    strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(strategy.model.path, tmp_path / "models" / "tiny"))
    monkeypatch.chdir(tmp_path)
    moved = replace(strategy, model=replace(strategy.model, path="models/tiny"))
    write_strategy(Path("plans/strategy.toml"), moved)
    assert 'path = "../models/tiny"' in Path("plans/strategy.toml").read_text()
    monkeypatch.chdir(model)
    with Pipeline.load(tmp_path / "plans" / "strategy.toml") as loaded:
        assert loaded.generate(["a"], max_new_tokens=1)


def test_an_error_in_a_stage_reaches_the_caller(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline.load(strategy) as loaded:
        last = local_workers(loaded)[-1]

        def fail(*_: object) -> None:
            msg = "stage broke"
            raise RuntimeError(msg)

        monkeypatch.setattr(last, "process", fail)
        with pytest.raises(RuntimeError, match="stage broke"):
            loaded.generate(["a"])
