"""Multiple-choice questions, answered by the likelihood of each choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path

import numpy as np

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.schema.buckets import bucket_length


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One multiple-choice question.

    Attributes:
        where: File and line of the question, for messages.
        question: Text before the choice.
        choices: Possible continuations, at least two.
        answer: Index of the right choice.
    """

    where: str
    question: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: Path) -> list[Question]:
    """Reads JSON lines with question, choices and answer.

    Raises:
        RequestError: The file cannot be read, or a line is not a question.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        msg = f"questions {path}: cannot be read ({reason}): expected JSON lines"
        raise RequestError(msg) from reason
    questions = [
        _question(line, f"questions {path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not questions:
        msg = f"questions {path}: has no questions: expected a JSON line for each question"
        raise RequestError(msg)
    return questions


def _question(line: str, where: str) -> Question:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as reason:
        msg = f"{where}: is not JSON ({reason}): {_EXPECTED}"
        raise RequestError(msg) from reason
    match found:
        case {"question": str(question), "choices": [*choices], "answer": int(answer)}:
            are_texts = all(isinstance(each, str) and each for each in choices)
            if are_texts and len(choices) >= 2 and 0 <= answer < len(choices):
                texts = tuple(choices)
                return Question(
                    where=where, question=question, choices=texts, answer=answer
                )
    msg = f"{where}: found {line[:80]!r}: {_EXPECTED}"
    raise RequestError(msg)


_EXPECTED = 'expected {"question": text, "choices": [two or more texts], "answer": number of the right one, from 0}'


def choose(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    longest: int,
) -> tuple[list[int], list[int]]:
    """Returns the index of each question's most likely choice, in total and per byte.

    `score` returns float32 logits [B, T, V] of tokens [B, T].

    Raises:
        RequestError: A question with a choice has more than `longest` tokens.
    """
    plain, per_byte = [], []
    for question in questions:
        likelihoods = _likelihoods(question, tokenizer, score, longest)
        sizes = np.array([len(choice.encode()) for choice in question.choices])
        plain.append(int(likelihoods.argmax()))
        per_byte.append(int((likelihoods / sizes).argmax()))
    return plain, per_byte


def fraction_right(questions: Sequence[Question], chosen: Sequence[int]) -> float:
    """Returns the share of questions whose right choice was chosen."""
    answers = [question.answer for question in questions]
    return sum(map(eq, answers, chosen)) / len(answers)


def _likelihoods(
    question: Question,
    tokenizer: Tokenizer,
    score: Callable[[np.ndarray], np.ndarray],
    longest: int,
) -> np.ndarray:
    """Returns log p(choice | question) of each choice."""
    before = tokenizer.encode(question.question)
    rows = [tokenizer.encode(question.question + each) for each in question.choices]
    length = max(map(len, rows))
    if length > longest:
        msg = f"{question.where}: has {length} tokens with its longest choice: expected at most {longest}; shorten it or plan for a longer context"
        raise RequestError(msg)
    tokens = np.zeros((len(rows), min(bucket_length(length), longest)), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    logits = score(tokens).astype(np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    sums = []
    for number, row in enumerate(rows):
        # Tokens of the choice start where those of question and choice together differ
        # from those of the question alone: its last token may merge with the choice.
        pairs = enumerate(zip(before, row, strict=False))
        differ = (index for index, (one, other) in pairs if one != other)
        shared = next(differ, min(len(before), len(row) - 1))
        own = range(max(1, shared), len(row))
        sums.append(sum(log_p[number, index - 1, row[index]] for index in own))
    return np.array(sums)
