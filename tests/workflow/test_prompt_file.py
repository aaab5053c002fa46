from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Sampling
from llmpq_jax.workflow.prompt_file import Choices, prompts_of, read_prompts


@pytest.fixture
def write(tmp_path):
    def write_one(*lines: str, name: str = "prompts.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write_one


def test_a_line_says_all_that_a_request_may(write):
    line = {
        "custom_id": "a",
        "prompt": "def f",
        "max_tokens": 3,
        "temperature": 1,
        "top_k": 5,
        "top_p": 0.5,
        "seed": 9,
        "stop": "\n",
    }
    (prompt,) = read_prompts(write(json.dumps(line)), Choices())
    assert prompt.custom_id == "a"
    assert prompt.text == "def f"
    assert prompt.max_new_tokens == 3
    assert prompt.sampling == Sampling(temperature=1, top_k=5, top_p=0.5, seed=9)
    assert prompt.stop == ("\n",)


def test_a_line_goes_before_the_options_and_they_before_the_defaults(write):
    choices = Choices(
        max_new_tokens=7, sampling=Sampling(temperature=0.5, seed=1), stop=("x",)
    )
    path = write('{"prompt": "a"}', '{"prompt": "b", "seed": 2, "stop": ["y", "z"]}')
    first, second = read_prompts(path, choices)
    assert first.sampling == choices.sampling
    assert first.stop == ("x",)
    assert first.max_new_tokens == second.max_new_tokens == 7
    assert second.sampling == Sampling(temperature=0.5, seed=2)
    assert second.stop == ("y", "z")


def test_lines_without_an_id_are_named_by_their_number(write):
    path = write('{"prompt": "a"}', "", '{"prompt": "b"}', "")
    assert [p.custom_id for p in read_prompts(path, Choices())] == ["line-1", "line-3"]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)
)
def test_any_text_comes_through_json_unchanged(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    path.write_bytes("\n".join(lines).encode())
    assert [prompt.text for prompt in read_prompts(path, Choices())] == texts


def test_a_text_file_has_a_prompt_on_each_line(write):
    path = write("first", "", "  second\r", name="prompts.txt")
    prompts = read_prompts(path, Choices())
    assert [prompt.text for prompt in prompts] == ["first", "  second"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "is not JSON"),
        ("[1]", "found a list, expected an object"),
        ('{"text": "a"}', "prompt: missing, expected a text"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"prompt": 3}', "prompt: found 3, expected a text"),
        (
            '{"prompt": "a", "temprature": 1}',
            "temprature: unknown key; expected one of",
        ),
        ('{"prompt": "a", "seed": true}', "seed: found True, expected a whole number"),
        ('{"prompt": "a", "top_k": 1.5}', "top_k: found 1.5, expected a whole number"),
        ('{"prompt": "a", "top_p": "x"}', "top_p: found 'x', expected a number"),
        ('{"prompt": "a", "top_p": 1.5}', "top_p is 1.5, expected more than 0"),
        (
            '{"prompt": "a", "temperature": NaN}',
            "temperature is nan, expected a finite",
        ),
        (
            '{"prompt": "a", "max_tokens": 0}',
            "max_new_tokens is 0, expected at least 1",
        ),
        (
            '{"prompt": "a", "max_tokens": 1, "max_new_tokens": 1}',
            "max_tokens and max_new_tokens mean the same",
        ),
        ('{"prompt": "a", "stop": ["x", 1]}', "stop: found ['x', 1], expected texts"),
        ('{"prompt": "a", "stop": ""}', "stop: found [''], expected texts"),
        ('{"prompt": "a", "custom_id": 4}', "custom_id: found 4, expected a text"),
        (
            '{"prompt": "a", "custom_id": "first"}',
            "custom_id 'first' is that of line 1 too: expected each once",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(write, line, message):
    path = write('{"prompt": "good", "custom_id": "first"}', "", line)
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        read_prompts(path, Choices())
    assert str(caught.value).startswith(f"prompts {path} line 3: ")


def test_a_file_of_another_kind_is_refused(write):
    with pytest.raises(RequestError, match=r"ends in '\.csv': expected \.jsonl"):
        read_prompts(write("a", name="prompts.csv"), Choices())


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RequestError, match="cannot be read \\(No such file"):
        read_prompts(tmp_path / "none.txt", Choices())


def test_an_empty_file_is_refused(write):
    with pytest.raises(RequestError, match="holds no prompt: expected one on each"):
        read_prompts(write("", " "), Choices())


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(RequestError, match="is not UTF-8 text \\(byte 3\\)"):
        read_prompts(path, Choices())


def test_prompts_given_one_by_one_are_checked_too():
    first, second = prompts_of(("a", "b"), Choices())
    assert (first.custom_id, second.custom_id) == ("prompt-1", "prompt-2")
    with pytest.raises(RequestError, match="prompt 2: the prompt is empty"):
        prompts_of(("a", ""), Choices())
