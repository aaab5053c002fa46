from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llmpq_jax.arch.fingerprint import plan_name
from llmpq_jax.batch.manifest import check_same_job, job_path, make_job, write_job
from llmpq_jax.batch.prompt import BadLine, Prompt, PromptDefaults
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Sampling
from tests.tiny_models import make_strategy, write_tiny_model

CHOICES = PromptDefaults(sampling=Sampling(temperature=1, seed=3), stop=("x",))
NAMED = Prompt(number=1, custom_id="a", content="text", where="a.jsonl line 1")
UNNAMED = Prompt(number=2, custom_id="line-2", content="text", where="a.jsonl line 2")
BAD = BadLine(number=3, custom_id="line-3", where="a.jsonl line 3", reason="bad")


@pytest.fixture
def model(tmp_path):
    return write_tiny_model(tmp_path / "model")


def job_of(model, lines=(NAMED, UNNAMED, BAD), choices=CHOICES, **changes):
    strategy = make_strategy(model, [((0,), [16, 8]), ((1,), [4, 8])], **changes)
    return make_job(strategy, lines, choices, is_chat=False, ignores_eos=True)


def test_a_job_is_the_same_whatever_changes_no_token(model, tmp_path):
    path = job_path(tmp_path / "results.jsonl")
    assert path.name == "results.jsonl.job.toml"
    write_job(path, job_of(model))
    elsewhere = model.rename(tmp_path / "moved")
    lines = (
        replace(NAMED, content="changed"),
        replace(UNNAMED, where="b.jsonl line 2"),
        replace(BAD, where="b.jsonl line 3"),
        replace(NAMED, number=4, custom_id="new"),
    )
    check_same_job(path, job_of(elsewhere, lines))
    check_same_job(path, job_of(elsewhere, choices=replace(CHOICES, max_new_tokens=8)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"choices": replace(CHOICES, max_new_tokens=7)},
            "--max-new-tokens was 8 and is 7: expected all as it was begun",
        ),
        (
            {"choices": replace(CHOICES, sampling=Sampling(temperature=0.5, seed=3))},
            "--temperature was 1.0 and is 0.5",
        ),
        ({"choices": replace(CHOICES, stop=())}, "--stop was ('x',) and is ()"),
        (
            {"lines": (NAMED, replace(UNNAMED, content="other"), BAD)},
            "lines without custom_id have changed",
        ),
        ({"lines": (UNNAMED, NAMED)}, "lines without custom_id have changed"),
    ],
)
def test_what_changes_tokens_is_another_job(model, tmp_path, changes, message):
    path = tmp_path / "job.toml"
    write_job(path, job_of(model))
    message = f"job {path}: {message}"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        check_same_job(path, job_of(model, **changes))


@pytest.mark.parametrize("changes", [{"head_bits": 8}, {"batch": 8}])
def test_a_strategy_that_did_not_serve_it_is_refused_by_name(model, tmp_path, changes):
    path = tmp_path / "job.toml"
    begun, other = job_of(model), job_of(model, **changes)
    write_job(path, begun)
    was, now = (plan_name(job.strategies[0]) for job in (begun, other))
    message = f"job {path}: the strategy is the plan {now}, which is none that served it: expected {was}; name"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        check_same_job(path, other)


def test_another_model_is_another_job(model, tmp_path):
    path = tmp_path / "job.toml"
    write_job(path, job_of(model))
    other = write_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(RequestError, match="the model is another: expected all as"):
        check_same_job(path, job_of(other))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(RequestError, match="the model's tokenizer, chat template or"):
        check_same_job(path, job_of(model))


def test_a_job_that_knows_another_strategy_goes_on_with_either(model, tmp_path):
    path = tmp_path / "job.toml"
    first, second = job_of(model), job_of(model, batch=8)
    write_job(path, replace(first, strategies=first.strategies + second.strategies))
    assert check_same_job(path, first).strategies[1:] == second.strategies
    check_same_job(path, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = ", "is not TOML"),
        ("schema = 2", "schema: found 2, expected 1"),
        ("model = 'x'", "program: missing, expected a value"),
    ],
)
def test_a_file_that_describes_no_job_is_one_line(model, tmp_path, text, message):
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=f"^job {re.escape(str(path))}: {message}"):
        check_same_job(path, job_of(model))
