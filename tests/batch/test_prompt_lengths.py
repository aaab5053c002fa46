from __future__ import annotations

import json
import re

import pytest

from llmpq_jax.batch.prompt import Prompt, prompt_tokens
from llmpq_jax.batch.prompt_file import workload_of_prompts
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.schema.workload import Workload
from tests.support.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("workload") / "model")


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines):
        path = tmp_path / "prompts.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in lines))
        return path

    return write_lines


def test_prompts_are_as_long_as_their_tokens(model, write):
    """The tokenizer is one of bytes."""
    path = write(
        {"prompt": "a" * 5, "max_new_tokens": 3},
        {"prompt": "b" * 40, "max_tokens": 2},
        {"prompt": "c"},
    )
    assert workload_of_prompts(model, path, batch=2, new_tokens=7) == Workload(
        batch=2,
        prompt_length=40,
        new_tokens=7,
        lengths=((16, 7, 1), (16, 3, 1), (48, 2, 1)),
        longest_context=42,
    )


def test_those_that_do_not_say_get_as_many_as_generate_will_give_them(model, write):
    path = write({"prompt": "a", "max_new_tokens": 9}, {"prompt": "b"})
    found = workload_of_prompts(model, path, new_tokens=4)
    assert (found.new_tokens, found.lengths, found.batch) == (9, ((16, 9, 2),), 2)


def test_conversations_are_as_long_as_the_template_makes_them(tmp_path, write):
    model = write_tiny_model(tmp_path / "chat")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    messages = [{"role": "user", "content": "a" * 30}]
    path = write(
        {
            "url": "/v1/chat/completions",
            "body": {"messages": messages, "max_tokens": 2},
        },
        {
            "url": "/v1/completions",
            "body": {"prompt": [1, 2, 3], "max_tokens": 4, "n": 3},
        },
    )
    found = workload_of_prompts(model, path)
    assert (found.prompt_length, found.longest_context) == (36, 38)
    assert found.lengths == ((16, 4, 3), (48, 2, 1))


def test_a_bad_line_is_named(model, write):
    messages = [{"role": "user", "content": "a"}]
    path = write(
        {"prompt": "a"}, {"url": "/v1/chat/completions", "body": {"messages": messages}}
    )
    message = f"prompts {path} line 2: tokenizer {model}: has no chat template"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        workload_of_prompts(model, path, new_tokens=3)
    path = write({"prompt": "a"}, {"promt": "a"})
    message = f"prompts {path} line 2: prompt: missing, expected a text"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        workload_of_prompts(model, path, new_tokens=3)


def test_the_batch_is_no_more_than_there_are(model, write):
    path = write({"prompt": "a", "max_new_tokens": 9})
    found = workload_of_prompts(model, path, batch=5, output_length_fraction=0.5)
    assert (found.batch, found.output_length_fraction) == (1, 0.5)
    assert found.expected_new_tokens == 4


def test_a_prompt_that_says_no_number_is_named(model, write):
    path = write({"prompt": "a", "max_new_tokens": 9}, {"prompt": "b"})
    message = f"prompts {path} line 2: says no max_new_tokens: expected it there, or --new-tokens"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        workload_of_prompts(model, path)


def test_a_prompt_of_no_token_is_named(model, write, monkeypatch):
    monkeypatch.setattr(
        "llmpq_jax.checkpoint.tokenizer.Tokenizer.encode", lambda _, __: ()
    )
    path = write({"prompt": "a", "max_new_tokens": 9})
    message = f"prompts {path} line 1: has no token by the tokenizer of {model}: expected at least one"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        workload_of_prompts(model, path)


def test_a_text_that_is_far_too_long_is_not_tokenised(model, write, monkeypatch):
    """No token is longer than the longest, so its bytes are too many."""

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(Tokenizer, "encode", refuse)
    tokenizer = Tokenizer.load(model)
    longest = tokenizer.max_token_bytes
    for content in ("a" * 200_000, ({"role": "user", "content": "ä" * 100_000},)):
        line = Prompt(number=1, custom_id="a", where="here", contents=(content,))
        message = f"^the prompt has 200000 bytes: expected at most 64 tokens, of at most {longest} bytes each; shorten"
        with pytest.raises(RequestError, match=message):
            prompt_tokens(line, tokenizer, max_tokens=64)
    path = write({"prompt": "a" * (1 << 20), "max_new_tokens": 1})
    with pytest.raises(RequestError, match="line 1: the prompt has 1048576 bytes"):
        workload_of_prompts(model, path)
