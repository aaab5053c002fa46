"""Requests check their fields, and sequences end where requests say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import Request, Sampling
from llmpq_jax.runtime.sequence import Sequence
from tests.support.small_tokenizers import SPECIAL, write_sentencepiece


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0.1, expected 0 to 3.4e\+38"),
        ({"temperature": float("inf")}, r"temperature is inf, expected 0 to 3.4e\+38"),
        ({"temperature": float("nan")}, r"temperature is nan, expected 0 to 3.4e\+38"),
        (
            {"temperature": 10**400},
            r"temperature is 10+\.\.\.0+, expected 0 to 3.4e\+38",
        ),
        ({"temperature": 3.5e38}, r"temperature is 3.5e\+38, expected 0 to 3.4e\+38"),
        ({"top_k": -1}, r"top_k is -1, expected 0 \(all tokens\) to 2147483647"),
        ({"top_k": 2**31}, r"top_k is 2147483648, expected 0 \(all tokens\) to 21474"),
        ({"top_p": -0.1}, "top_p is -0.1, expected 0 to 1"),
        ({"top_p": 1.1}, "top_p is 1.1, expected 0 to 1"),
        ({"top_p": float("nan")}, "top_p is nan, expected 0 to 1"),
        ({"seed": 2**63}, "seed is 9223372036854775808, expected -9223372036854775808"),
        ({"seed": -(2**63) - 1}, "seed is -9223372036854775809, expected -92233720368"),
    ],
)
def test_a_sampling_choice_is_checked(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Sampling(**choice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": ()}, "the prompt is empty: expected at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected 1 to 2147483647"),
        ({"max_new_tokens": 2**31}, "max_new_tokens is 2147483648, expected 1 to 214"),
        ({"stop": ("a", "")}, "a stop text is empty: expected at least one character"),
    ],
)
def test_a_request_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Request(**({"token_ids": (1,), "max_new_tokens": 1} | change))


@pytest.mark.parametrize(
    ("seed", "steps", "later"),
    [(3, 0, 3), (3, 2, 5), (-1, 1, 0), (2**63 - 1, 1, -(2**63))],
)
def test_further_choices_draw_with_the_next_seeds(
    seed: int, steps: int, later: int
) -> None:
    first = Sampling(temperature=0.5, seed=seed)
    assert first.with_next_seed(steps) == Sampling(temperature=0.5, seed=later)


class Letters:
    """Decodes token n as the n-th letter."""

    def add(self, token_id: int) -> str:
        return chr(97 + token_id)

    def rest(self) -> str:
        return ""

    def special_text(self, token_id: int) -> str:
        return ""


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
    st.integers(1, 12),
)
def test_text_ends_before_the_first_stop_text_or_at_the_limit(
    tokens: list[int], stops: list[str], max_new_tokens: int
) -> None:
    request = Request(token_ids=(1,), max_new_tokens=max_new_tokens, stop=tuple(stops))
    sequence = Sequence(request, eos_ids=(25,), decoder=Letters())
    for token in [*tokens, 25]:
        sequence.append(token)
    sequence.finish_reason = sequence.finish_reason or "length"
    text = "".join(chr(97 + token) for token in tokens)[:max_new_tokens]
    # The referee looks at every prefix, and cuts the first that has a stop text.
    for end in range(1, len(text) + 1):
        starts = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if starts:
            text = text[: min(starts)]
            break
    assert sequence.completion().text == text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_sentencepiece(folder)
    return Tokenizer.load(folder)


END = SPECIAL.index("<|im_end|>")


@pytest.mark.parametrize(
    ("stop", "eos_ids", "text", "reason"),
    [
        ("<|im_end|>", (), " ab", "stop"),
        ("b<|im_end|> c", (), " a", "stop"),
        ("b<|im_end|>", (END,), " a", "stop"),
        (" a", (), "", "stop"),
        ("im_end", (), " ab cd", "length"),
        ("zz", (END,), " ab", "eos"),
    ],
)
def test_special_tokens_are_searched_for_stop_texts_but_are_no_text(
    tokenizer: Tokenizer, stop: str, eos_ids: tuple[int, ...], text: str, reason: str
) -> None:
    ab, cd = (
        tokenizer.encode(each, adds_special_tokens=False) for each in ("ab", "cd")
    )
    tokens = [*ab, END, *cd]
    prompt_ids = tokenizer.encode("x")
    request = Request(token_ids=prompt_ids, max_new_tokens=len(tokens), stop=(stop,))
    decoder = tokenizer.text_decoder(prompt_ids)
    sequence = Sequence(request, eos_ids=eos_ids, decoder=decoder)
    for token in tokens:
        sequence.append(token)
    completion = sequence.completion()
    assert (completion.text, completion.finish_reason) == (text, reason)
