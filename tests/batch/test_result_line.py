from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.result_line import Result, result_values
from llmpq_jax.runtime import Completion

PROMPT = Prompt(number=3, custom_id="a", contents=("naïve",), where="line 3")
COMPLETION = Completion(
    token_ids=(1, 2),
    text="\u2028ja",
    finish_reason="eos",
    prompt_token_ids=(3, 1, 4, 1, 5),
)


def test_a_plain_line_has_a_plain_result():
    result = Result(line=PROMPT, completions=(COMPLETION,), plans=("first", "second"))
    assert result_values(result, model="m") == {
        "custom_id": "a",
        "prompt": "naïve",
        "text": "\u2028ja",
        "finish_reason": "eos",
        "num_prompt_tokens": 5,
        "num_new_tokens": 2,
        "plans": ["first", "second"],
    }


@pytest.mark.parametrize(
    ("form", "kind", "said"),
    [
        ("chat", "chat.completion", {"message": {"role": "assistant", "content": "j"}}),
        ("completion", "text_completion", {"text": "j"}),
    ],
)
def test_a_line_of_openai_has_a_result_of_openai(form, kind, said):
    prompt = replace(PROMPT, form=form)
    for reason, theirs in (("eos", "stop"), ("stop", "stop"), ("length", "length")):
        completion = replace(COMPLETION, text="j", finish_reason=reason)
        values = result_values(
            Result(line=prompt, completions=(completion,), plans=("first",)),
            model="folder",
        )
        assert set(values) == {"id", "custom_id", "response", "error", "plans"}
        assert values["plans"] == ["first"]
        assert (values["custom_id"], values["error"]) == ("a", None)
        assert values["response"]["status_code"] == 200
        body = values["response"]["body"]
        assert (body["object"], body["model"]) == (kind, "folder")
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": theirs}
        assert body["choices"] == [choice]
        assert body["usage"] == {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
        }


def test_several_choices_are_one_result():
    prompt = replace(PROMPT, form="chat", num_choices=2)
    other = replace(COMPLETION, text="other", token_ids=(1, 2, 3))
    result = Result(line=prompt, completions=(COMPLETION, other))
    body = result_values(result, model="m")["response"]["body"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][1]["message"]["content"] == "other"
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["total_tokens"] == 10


def test_a_model_is_called_what_the_line_calls_it():
    prompt = replace(PROMPT, form="chat", model="theirs")
    result = Result(line=prompt, completions=(COMPLETION,))
    body = result_values(result, model="folder")["response"]["body"]
    assert body["model"] == "theirs"


def test_no_two_results_have_one_id():
    result = Result(line=replace(PROMPT, form="chat"), completions=(COMPLETION,))
    first, second = (result_values(result, model="m") for _ in range(2))
    assert first["id"] != second["id"]
    assert first["response"]["request_id"] != second["response"]["request_id"]
    assert first["response"]["body"]["id"] != second["response"]["body"]["id"]


def test_a_bad_line_has_its_number_and_the_reason():
    bad = BadLine(number=7, custom_id="line-7", where="f line 7", reason="is not JSON")
    values = result_values(Result(line=bad), model="m")
    assert values["custom_id"] == "line-7"
    assert values["response"] is None
    assert "plans" not in values
    assert values["error"] == {
        "code": "invalid_request",
        "message": "is not JSON",
        "line": 7,
    }
