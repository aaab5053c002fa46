from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch import prompt_file
from llmpq_jax.batch.prompt import BadLine, Prompt, PromptDefaults
from llmpq_jax.batch.prompt_file import PromptFile, make_prompts, read_prompts
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Sampling


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
    (prompt,) = read_prompts(write(json.dumps(line)), PromptDefaults())
    assert prompt.custom_id == "a"
    assert prompt.text == "def f"
    assert prompt.max_new_tokens == 3
    assert prompt.sampling == Sampling(temperature=1, top_k=5, top_p=0.5, seed=9)
    assert prompt.stop == ("\n",)


def test_a_line_goes_before_the_options_and_they_before_the_defaults(write):
    choices = PromptDefaults(
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
    assert [p.custom_id for p in read_prompts(path, PromptDefaults())] == [
        "line-1",
        "line-3",
    ]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)
)
def test_any_text_comes_through_json_unchanged(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    path.write_bytes("\n".join(lines).encode())
    assert [prompt.text for prompt in read_prompts(path, PromptDefaults())] == texts


def test_a_text_file_has_a_prompt_on_each_line(write):
    path = write("first", "", "  second\r", name="prompts.txt")
    prompts = read_prompts(path, PromptDefaults())
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
        ('{"prompt": null}', "prompt: found None, expected a text"),
        ('{"prompt": "a", "seed": null}', "seed: found None, expected a whole number"),
        ('{"prompt": "a", "seed": 1.5}', "seed: found 1.5, expected a whole number"),
        ('{"prompt": "a", "top_p": true}', "top_p: found True, expected a number"),
        ('{"prompt": "a", "stop": 1}', "stop: found 1, expected a text or a list"),
        ('{"prompt": "a", "n": 2}', "n: unknown key; expected one of prompt, cust"),
        ('{"prompt": "a", "top_k": 1.5}', "top_k: found 1.5, expected a whole number"),
        ('{"prompt": "a", "top_p": "x"}', "top_p: found 'x', expected a number"),
        ('{"prompt": "a", "top_p": 1.5}', "top_p is 1.5, expected 0 to 1"),
        (
            '{"prompt": "a", "temperature": NaN}',
            "temperature is nan, expected 0 to 3.4e+38",
        ),
        (
            '{"prompt": "a", "max_tokens": 0}',
            "max_tokens is 0, expected 1 to 2147483647",
        ),
        (
            '{"prompt": "a", "max_tokens": 1, "max_new_tokens": 1}',
            "max_tokens: found with max_new_tokens, expected one of them",
        ),
        ('{"prompt": "a", "stop": ["x", 1]}', "stop: found ['x', 1], expected texts"),
        ('{"prompt": "a", "stop": ""}', "stop: found [''], expected texts"),
        ('{"prompt": "a", "custom_id": 4}', "custom_id: found 4, expected a text"),
        ('{"prompt": "a", "custom_id": ""}', "custom_id is empty: expected at least"),
        (
            '{"prompt": "a", "custom_id": "line-1"}',
            "custom_id 'line-1' is what line 1 is called if it has none",
        ),
        (r'{"prompt": "\ud800"}', r"holds '\ud800', half of a character"),
        ('{"seed": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
        ("[" * 100_000, "is not JSON (maximum recursion"),
        ('{"body": {}}', "url: missing, expected /v1/chat/completions or"),
        (
            '{"prompt": "a", "custom_id": "first"}',
            "custom_id 'first' is that of line 1 too: expected each once",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(write, line, message):
    path = write('{"prompt": "good", "custom_id": "first"}', "", line)
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        read_prompts(path, PromptDefaults())
    assert str(caught.value).startswith(f"prompts {path} line 3: ")


def test_a_file_of_another_kind_is_refused(write):
    with pytest.raises(RequestError, match=r"ends in '\.csv': expected \.jsonl"):
        read_prompts(write("a", name="prompts.csv"), PromptDefaults())


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RequestError, match="cannot be read \\(No such file"):
        read_prompts(tmp_path / "none.txt", PromptDefaults())


def test_an_empty_file_is_refused(write):
    with pytest.raises(RequestError, match="holds no prompt: expected one on each"):
        read_prompts(write("", " "), PromptDefaults())


def test_a_bad_line_says_nothing_of_the_others(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        b'{"prompt": "a", "custom_id": "one"}\n'
        b"caf\xe9\n"
        b'{"prompt": "b", "custom_id": "one"}\r\n'
        b'{"prompt": "c", "custom_id": "two", "top_k": -1}\n'
        b'{"prompt": "d", "custom_id": "line-5"}'
    )
    first, *bad, last = PromptFile(path, PromptDefaults())
    assert isinstance(first, Prompt)
    assert isinstance(last, Prompt)
    assert (first.custom_id, first.text, first.number) == ("one", "a", 1)
    assert (last.custom_id, last.text, last.number) == ("line-5", "d", 5)
    assert all(isinstance(line, BadLine) for line in bad)
    assert [(line.number, line.custom_id) for line in bad] == [
        (2, "line-2"),
        (3, "line-3"),
        (4, "two"),
    ]
    messages = [str(line) for line in bad]
    assert messages[0] == (
        f"prompts {path} line 2: is not UTF-8 text (byte 3): save it as UTF-8"
    )
    assert "custom_id 'one' is that of line 1 too" in messages[1]
    assert "top_k is -1, expected 0 (all tokens) to" in messages[2]


@given(
    st.lists(st.sampled_from(["a", "b", "line-2", "line-3", "", None, "?"]), min_size=1)
)
def test_every_line_has_a_name_and_each_name_one_line(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [
        "?"
        if name == "?"
        else json.dumps({"prompt": "x"} | ({} if name is None else {"custom_id": name}))
        for name in names
    ]
    path.write_text("\n".join(lines))
    found = [line.custom_id for line in PromptFile(path, PromptDefaults())]
    assert len(found) == len(set(found)) == len(names)


def test_a_line_that_never_ends_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_file, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"x" * (1 << 20) + b"\n" + b"y" * (5 << 20) + b"\nz")
    first, second, third = PromptFile(path, PromptDefaults())
    assert isinstance(first, Prompt)
    assert isinstance(third, Prompt)
    assert (len(first.text), third.text, third.number) == (1 << 20, "z", 3)
    assert str(second).endswith("line 2: is longer than 1 MiB: expected one prompt")


def test_a_message_does_not_quote_a_whole_prompt(write):
    line = json.dumps({"prompt": ["long " * 10_000]})
    (bad,) = PromptFile(write(line), PromptDefaults())
    assert len(str(bad)) < 1000
    assert re.search(r"prompt: found \['long .*\.\.\..*, expected a text$", str(bad))


def test_a_file_may_be_read_again(write):
    file = PromptFile(write('{"prompt": "a"}', '{"prompt": "b"}'), PromptDefaults())
    assert list(file) == list(file)


def test_prompts_given_one_by_one_are_checked_too():
    first, second = make_prompts(("a", "b"), PromptDefaults())
    assert (first.custom_id, second.custom_id) == ("prompt-1", "prompt-2")
    with pytest.raises(RequestError, match="prompt 2: the prompt is empty"):
        make_prompts(("a", ""), PromptDefaults())
