"""Multiple-choice questions by way of HTTP, as lm-eval asks them, and as `evaluate` does."""

from __future__ import annotations

from random import Random

import httpx
import numpy as np

from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.tasks.questions import Question, choose
from tests.server.conftest import NAME


def _questions(count: int) -> list[Question]:
    random = Random(4)

    def text(length: int) -> str:
        return "".join(random.choice("abcdefgh ijkl.") for _ in range(length))

    return [
        Question(
            where=f"question {number}",
            question=text(random.randint(5, 60)),
            choices=tuple(
                f" {text(random.randint(2, 20))}" for _ in range(random.randint(2, 5))
            ),
            answer=0,
        )
        for number in range(count)
    ]


def test_the_same_choices_are_the_likeliest(
    http: httpx.Client, pipeline: Pipeline
) -> None:
    questions = _questions(20)
    encode = pipeline.tokenizer.encode
    over_http: list[int] = []
    for question in questions:
        num_context = len(encode(question.question))
        rows = [list(encode(question.question + each)) for each in question.choices]
        body = {
            "model": NAME,
            "prompt": rows,
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 1,
            "seed": 1234,
            "echo": True,
        }
        choices = http.post("/v1/completions", json=body).json()["choices"]
        found = [each["logprobs"]["token_logprobs"] for each in choices]
        # What lm-eval reads: without the context's, and without the one generated token.
        sums = [sum(logprobs[num_context:-1]) for logprobs in found]
        assert [len(logprobs) for logprobs in found] == [len(row) + 1 for row in rows]
        over_http.append(int(np.argmax(sums)))
    with Pipeline.load(pipeline.strategy) as alone:
        expected, _ = choose(questions, alone.tokenizer, alone.score, longest=256)
    assert over_http == expected
    assert len(set(expected)) > 1
