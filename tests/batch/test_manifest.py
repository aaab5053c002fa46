from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llmpq_jax.arch.fingerprint import plan_name
from llmpq_jax.batch.manifest import (
    check_manifest,
    make_manifest,
    manifest_path,
    write_manifest,
)
from llmpq_jax.batch.prompt import BadLine, Prompt, PromptDefaults
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Sampling
from tests.support.tiny_models import make_strategy, write_tiny_model

DEFAULTS = PromptDefaults(sampling=Sampling(temperature=1, seed=3), stop=("x",))
NAMED = Prompt(number=1, custom_id="a", contents=("text",), where="a.jsonl line 1")
UNNAMED = Prompt(
    number=2, custom_id="line-2", contents=("text",), where="a.jsonl line 2"
)
BAD = BadLine(number=3, custom_id="line-3", where="a.jsonl line 3", reason="bad")


@pytest.fixture
def model(tmp_path):
    return write_tiny_model(tmp_path / "model")


def manifest_of(model, lines=(NAMED, UNNAMED, BAD), defaults=DEFAULTS, **changes):
    strategy = make_strategy(model, [((0,), [16, 8]), ((1,), [4, 8])], **changes)
    return make_manifest(strategy, lines, defaults, is_chat=False, ignores_eos=True)


def test_what_changes_no_token_does_not_stop_a_resumed_run(model, tmp_path):
    path = manifest_path(tmp_path / "results.jsonl")
    assert path.name == "results.jsonl.manifest.toml"
    write_manifest(path, manifest_of(model))
    elsewhere = model.rename(tmp_path / "moved")
    lines = (
        replace(NAMED, contents=("changed",)),
        replace(UNNAMED, where="b.jsonl line 2"),
        replace(BAD, where="b.jsonl line 3"),
        replace(NAMED, number=4, custom_id="new"),
    )
    check_manifest(path, manifest_of(elsewhere, lines))
    check_manifest(
        path, manifest_of(elsewhere, defaults=replace(DEFAULTS, max_new_tokens=8))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"defaults": replace(DEFAULTS, max_new_tokens=7)},
            "--max-new-tokens was 8 and is 7: expected all as at the start of the run",
        ),
        (
            {"defaults": replace(DEFAULTS, sampling=Sampling(temperature=0.5, seed=3))},
            "--temperature was 1.0 and is 0.5",
        ),
        ({"defaults": replace(DEFAULTS, stop=())}, "--stop was ('x',) and is ()"),
        (
            {"lines": (NAMED, replace(UNNAMED, contents=("other",)), BAD)},
            "lines without custom_id have changed",
        ),
        ({"lines": (UNNAMED, NAMED)}, "lines without custom_id have changed"),
    ],
)
def test_what_changes_tokens_is_refused(model, tmp_path, changes, message):
    path = tmp_path / "manifest.toml"
    write_manifest(path, manifest_of(model))
    message = f"manifest {path}: {message}"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        check_manifest(path, manifest_of(model, **changes))


@pytest.mark.parametrize("changes", [{"head_bits": 8}, {"batch": 8}])
def test_a_strategy_that_did_not_serve_it_is_refused_by_name(model, tmp_path, changes):
    path = tmp_path / "manifest.toml"
    begun, other = manifest_of(model), manifest_of(model, **changes)
    write_manifest(path, begun)
    was, now = (plan_name(manifest.strategies[0]) for manifest in (begun, other))
    message = f"manifest {path}: the strategy is the plan {now}, which did not serve the run: expected {was}; name"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        check_manifest(path, other)


def test_another_model_is_refused(model, tmp_path):
    path = tmp_path / "manifest.toml"
    write_manifest(path, manifest_of(model))
    other = write_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(RequestError, match="the model is another: expected all as"):
        check_manifest(path, manifest_of(other))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(RequestError, match="the model's tokenizer, chat template or"):
        check_manifest(path, manifest_of(model))


def test_a_manifest_of_two_strategies_goes_on_with_either(model, tmp_path):
    path = tmp_path / "manifest.toml"
    first, second = manifest_of(model), manifest_of(model, batch=8)
    write_manifest(
        path, replace(first, strategies=first.strategies + second.strategies)
    )
    assert check_manifest(path, first).strategies[1:] == second.strategies
    check_manifest(path, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = ", "is not TOML"),
        ("schema = 2", "schema: found 2, expected 1"),
        ("model = 'x'", "program: missing, expected a value"),
    ],
)
def test_a_file_that_is_no_manifest_is_one_line(model, tmp_path, text, message):
    path = tmp_path / "manifest.toml"
    path.write_text(text)
    with pytest.raises(
        RequestError, match=f"^manifest {re.escape(str(path))}: {message}"
    ):
        check_manifest(path, manifest_of(model))
