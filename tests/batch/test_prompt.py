from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.batch.prompt import Form, Prompt, prompt_tokens
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from tests.support.tiny_models import write_tiny_model


def prompt_of(content, form: Form = "plain"):
    return Prompt(number=1, custom_id="a", contents=(content,), where="here", form=form)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("prompt") / "model")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    model = write_tiny_model(tmp_path_factory.mktemp("prompt") / "chatty")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    return Tokenizer.load(model)


def test_only_conversations_go_through_the_template_unless_asked(chatty):
    text = chatty.encode("hi")
    assert prompt_tokens(prompt_of("hi"), chatty) == (text,)
    completion = prompt_of("hi", "completion")
    assert prompt_tokens(completion, chatty, is_chat=True) == (text,)
    said = chatty.encode("<user>hi", adds_special_tokens=False)
    assert prompt_tokens(prompt_of("hi"), chatty, is_chat=True) == (said,)
    messages = ({"role": "user", "content": "hi"},)
    assert prompt_tokens(prompt_of(messages, "chat"), chatty) == (said,)


def test_token_ids_are_taken_as_they_are(chatty):
    assert prompt_tokens(prompt_of((5, 300), "completion"), chatty) == ((5, 300),)


def test_each_prompt_of_a_line_has_its_tokens(chatty):
    several = replace(prompt_of("hi", "completion"), contents=("hi", "ho"))
    expected = (chatty.encode("hi"), chatty.encode("ho"))
    assert prompt_tokens(several, chatty) == expected


def test_a_choice_is_shown_after_its_own_prompt():
    several = replace(
        prompt_of("hi", "completion"), contents=("hi", (5, 6)), num_choices=2
    )
    assert several.num_requests == 4
    assert several.text == "hi"
    assert [several.text_of(n) for n in range(4)] == ["hi", "hi", "5 6", "5 6"]


def test_a_conversation_without_a_template_is_refused(model):
    messages = ({"role": "user", "content": "hi"},)
    with pytest.raises(RequestError, match="has no chat template: expected a model"):
        prompt_tokens(prompt_of(messages, "chat"), Tokenizer.load(model))
