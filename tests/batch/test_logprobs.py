"""Log-probabilities of a completion: texts that join to its text, and clear keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.logprobs import logprobs_values
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.runtime import Completion
from llmpq_jax.runtime.request import FinishReason, TokenLogprobs
from tests.support.small_tokenizers import SPECIAL, write_sentencepiece

# More tokens than the tokenizer has, as a padded vocabulary of a model.
NUM_TOKENS = 340


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_sentencepiece(folder, ("▁true", "true"))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def ids_of(tokenizer):
    """Token of each piece."""
    count = range(NUM_TOKENS)
    pieces = tokenizer._tokenizer.convert_ids_to_tokens(list(count))
    return {piece: token_id for token_id, piece in enumerate(pieces) if piece}


def completion_of(tokenizer, tokens, reason: FinishReason = "length"):
    """Makes a completion of tokens, each with its likeliest ones."""
    token_ids = tuple(token_id for token_id, _ in tokens)
    prompt_ids = tokenizer.encode("a")
    decoder = tokenizer.text_decoder(prompt_ids)
    shown = token_ids[:-1] if reason == "eos" else token_ids
    text = "".join(decoder.add(token_id) for token_id in shown) + decoder.rest()
    return Completion(
        token_ids=token_ids,
        text=text,
        finish_reason=reason,
        prompt_token_ids=prompt_ids,
        logprobs=tuple(
            TokenLogprobs(logprob=-0.5, top_tokens=tuple(top)) for _, top in tokens
        ),
    )


def values_of(tokenizer, completion, *, is_chat=False):
    decoder = tokenizer.text_decoder(completion.prompt_token_ids)
    return logprobs_values(completion, decoder, is_chat=is_chat)


TOKEN_IDS = st.integers(0, NUM_TOKENS - 1)


@given(
    st.lists(
        st.tuples(TOKEN_IDS, st.lists(TOKEN_IDS, min_size=3, max_size=3, unique=True)),
        min_size=1,
        max_size=12,
    )
)
def test_texts_join_to_the_text_and_no_token_takes_another_s_place(tokenizer, drawn):
    tokens = [
        (token_id, [(likely, -1.0 - likely) for likely in top])
        for token_id, top in drawn
    ]
    completion = completion_of(tokenizer, tokens)
    values = values_of(tokenizer, completion)
    assert "".join(values["tokens"]) == completion.text
    assert values["token_logprobs"] == [-0.5] * len(tokens)
    for index, (token_id, top) in enumerate(drawn):
        offset, text = values["text_offset"][index], values["tokens"][index]
        assert completion.text[offset : offset + len(text)] == text
        found = values["top_logprobs"][index]
        # The k likeliest, and the drawn one.
        others = {likely for likely in top if likely != token_id}
        assert found.pop(text) == -0.5
        assert sorted(found.values()) == sorted(-1.0 - likely for likely in others)
        for likely in others:
            assert f"token_id:{likely}" not in found or (
                found[f"token_id:{likely}"] == -1.0 - likely
            )


def test_spaces_are_kept_apart_from_none(tokenizer, ids_of):
    spaced, plain = ids_of["▁true"], ids_of["true"]
    top = [(spaced, -0.5), (plain, -1.5)]
    completion = completion_of(tokenizer, [(spaced, top), (plain, top)])
    assert values_of(tokenizer, completion) == {
        "tokens": [" true", "true"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [
            {" true": -0.5, "true": -1.5},
            {"true": -0.5, " true": -0.5},
        ],
        "text_offset": [0, 5],
    }


def test_tokens_of_one_text_or_of_none_have_their_number_as_key(tokenizer, ids_of):
    letter, byte = ids_of["a"], ids_of["<0x61>"]
    end, first = SPECIAL.index("</s>"), ids_of["<0xF0>"]
    top = [(byte, -0.1), (letter, -0.5), (end, -2.0), (first, -3.0)]
    completion = completion_of(tokenizer, [(letter, top)])
    (found,) = values_of(tokenizer, completion)["top_logprobs"]
    assert found == {
        "a": -0.5,
        f"token_id:{byte}": -0.1,
        f"token_id:{end}": -2.0,
        f"token_id:{first}": -3.0,
    }


def test_the_drawn_token_is_listed_even_if_no_others_are(tokenizer, ids_of):
    completion = completion_of(tokenizer, [(ids_of["a"], [])])
    assert values_of(tokenizer, completion)["top_logprobs"] == [{"a": -0.5}]


def test_a_conversation_lists_each_token_with_its_bytes(tokenizer, ids_of):
    """The end-of-text token is not listed; parts of characters have bytes and no text."""
    smile = [ids_of[f"<0x{byte:02X}>"] for byte in "😀".encode()]
    end = SPECIAL.index("</s>")
    tokens = [(token_id, [(end, -4.0)]) for token_id in [*smile, end]]
    completion = completion_of(tokenizer, tokens, reason="eos")
    values = values_of(tokenizer, completion, is_chat=True)
    likely = {"token": "", "logprob": -4.0, "bytes": None}
    assert values == {
        "content": [
            {
                "token": text,
                "logprob": -0.5,
                "bytes": [byte],
                "top_logprobs": [likely],
            }
            for text, byte in zip(["", "", "", "😀"], "😀".encode(), strict=True)
        ],
        "refusal": None,
    }


def test_what_is_left_of_a_character_is_the_last_token_s(tokenizer, ids_of):
    token_id = ids_of["<0xF0>"]
    completion = completion_of(tokenizer, [(ids_of["a"], []), (token_id, [])])
    values = values_of(tokenizer, completion)
    assert values["tokens"] == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_a_text_that_was_not_ended_by_the_model_lists_all_its_tokens(tokenizer, ids_of):
    completion = completion_of(tokenizer, [(ids_of["a"], [])] * 3)
    ended = replace(completion, finish_reason="eos")
    assert len(values_of(tokenizer, completion)["tokens"]) == 3
    assert len(values_of(tokenizer, ended)["tokens"]) == 2
