from __future__ import annotations

import json

import numpy as np
import pytest

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.tasks.questions import choose, fraction_right, read_questions
from tests.support.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_tiny_model(tmp_path_factory.mktemp("model")))


def _write(folder, *rows: object):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _question(answer: int = 0, *choices: str):
    return {"question": "abc", "choices": list(choices or ("d", "e")), "answer": answer}


def successor(tokens: np.ndarray) -> np.ndarray:
    """Logits of a model that holds the next letter of the alphabet for likely."""
    logits = np.zeros((*tokens.shape, 258), np.float32)
    rows, node_devices = np.indices(tokens.shape)
    logits[rows, node_devices, np.minimum(tokens + 1, 257)] = 4.0
    return logits


def test_the_likeliest_choice_is_taken(tokenizer, tmp_path):
    path = _write(
        tmp_path, _question(0, "def", "dzz"), _question(1, "xyz", "def"), _question(1)
    )
    questions = read_questions(path)
    plain, per_byte = choose(questions, tokenizer, successor, longest=64)
    assert plain == per_byte == [0, 1, 0]
    assert fraction_right(questions, plain) == pytest.approx(2 / 3)


def test_a_longer_choice_is_compared_by_its_bytes(tokenizer, tmp_path):
    questions = read_questions(_write(tmp_path, _question(1, "z", "defghz")))
    plain, per_byte = choose(questions, tokenizer, successor, longest=64)
    assert (plain, per_byte) == ([0], [1])


def test_padding_and_other_choices_change_nothing(tokenizer, tmp_path):
    """Against the sums written out, one row at a time."""
    path = _write(tmp_path, _question(0, "d", "de", "dex"))
    seen: list[np.ndarray] = []

    def spied(tokens):
        seen.append(tokens)
        return successor(tokens)

    choose(read_questions(path), tokenizer, spied, longest=64)
    (tokens,) = seen
    assert tokens.shape == (3, 16)
    alone = [list(tokenizer.encode("abc" + each)) for each in ("d", "de", "dex")]
    for row, expected in zip(tokens, alone, strict=True):
        assert row[: len(expected)].tolist() == expected


def test_a_question_that_is_too_long_is_refused(tokenizer, tmp_path):
    questions = read_questions(_write(tmp_path, _question(0, "d" * 30, "e")))
    complaint = (
        r"questions\.jsonl, line 1: has 33 tokens with its longest choice: expec"
    )
    with pytest.raises(RequestError, match=complaint):
        choose(questions, tokenizer, successor, longest=32)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a", "choices": ["b"], "answer": 0},
        {"question": "a", "choices": ["b", "c"], "answer": 2},
        {"question": "a", "choices": ["b", ""], "answer": 0},
        {"question": "a", "choices": "bc", "answer": 0},
        {"question": 1, "choices": ["b", "c"], "answer": 0},
        ["a"],
    ],
)
def test_a_line_that_is_no_question_is_refused(tmp_path, row):
    with pytest.raises(
        RequestError, match=r"line 2: found .*: expected {.question.: tex"
    ):
        read_questions(_write(tmp_path, _question(), row))


def test_files_without_questions_are_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    with pytest.raises(RequestError, match="cannot be read"):
        read_questions(path)
    path.write_text("\n")
    with pytest.raises(
        RequestError, match="has no questions: expected a JSON line for each"
    ):
        read_questions(path)
    path.write_text("{\n")
    with pytest.raises(RequestError, match="line 1: is not JSON"):
        read_questions(path)
