"""What tokens add to a prompt's text, one by one, is what the model wrote."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.checkpoint.text_decoder import TextDecoder
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from tests.support.small_tokenizers import (
    SPECIAL,
    write_byte_level,
    write_sentencepiece,
)

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
WRITERS = {"byte-level": write_byte_level, "SentencePiece": write_sentencepiece}
WORDS = {
    "byte-level": ("Ġthe", "Ġcat", "cat", "âĤ"),
    "SentencePiece": ("▁the", "▁cat", "cat"),
}
# Letters, spaces, and characters of two to four bytes.
TEXTS = st.text("a the cat.\n é€😀", max_size=20)


@pytest.fixture(scope="module", params=list(WRITERS))
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    WRITERS[request.param](folder, WORDS[request.param])
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_level(folder, WORDS["byte-level"])
    return Tokenizer.load(folder)


def continuation_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Returns the tokens of a text that is not at the start of another."""
    spaced = tokenizer.encode("." + text, adds_special_tokens=False)
    marker = tokenizer.encode(".", adds_special_tokens=False)
    assert spaced[: len(marker)] == marker
    return spaced[len(marker) :]


def texts_and_bytes(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], ids: Sequence[int]
) -> tuple[list[str], list[bytes | None], str]:
    """Returns the text and bytes of each token, and the rest at the end."""
    decoder = tokenizer.text_decoder(prompt_ids)
    texts, own_bytes = [], []
    for token_id in ids:
        likely = decoder.token_text(token_id)
        texts.append(decoder.add(token_id))
        assert texts[-1] == likely.text
        own_bytes.append(likely.own_bytes)
    return texts, own_bytes, decoder.rest()


@given(prompt=TEXTS, text=TEXTS)
def test_prompt_and_continuation_are_what_the_model_wrote(
    tokenizer: Tokenizer, prompt: str, text: str
) -> None:
    prompt_ids = tokenizer.encode(prompt)
    ids = continuation_ids(tokenizer, text)
    texts, own_bytes, rest = texts_and_bytes(tokenizer, prompt_ids, ids)
    whole = tokenizer.decode([*prompt_ids, *ids])
    assert tokenizer.decode(prompt_ids) + "".join(texts) == whole
    assert rest == ""
    assert b"".join(each or b"" for each in own_bytes) == "".join(texts).encode()


@given(prompt=TEXTS, ids=st.lists(st.integers(0, 300)))
def test_any_tokens_of_bytes_give_the_text_of_all(
    byte_level: Tokenizer, prompt: str, ids: list[int]
) -> None:
    tokenizer = byte_level
    prompt_ids = tokenizer.encode(prompt)
    texts, own_bytes, rest = texts_and_bytes(tokenizer, prompt_ids, ids)
    text = "".join(texts) + rest
    assert tokenizer.decode(prompt_ids) + text == tokenizer.decode([*prompt_ids, *ids])
    written = b"".join(each or b"" for each in own_bytes)
    assert written.decode(errors="replace") == text


def test_a_space_at_the_start_is_kept(tokenizer: Tokenizer) -> None:
    prompt_ids = tokenizer.encode("see")
    ids = continuation_ids(tokenizer, " the cat")
    texts, own_bytes, _ = texts_and_bytes(tokenizer, prompt_ids, ids)
    assert texts == [" the", " cat"]
    assert own_bytes == [b" the", b" cat"]


def test_special_tokens_of_the_prompt_are_no_context(tokenizer: Tokenizer) -> None:
    end = SPECIAL.index("<|im_end|>")
    prompt_ids = [*tokenizer.encode("see"), *[end] * 20]
    (the,) = continuation_ids(tokenizer, " the")
    assert tokenizer.text_decoder(prompt_ids).add(the) == " the"


def test_a_character_is_the_text_of_its_last_token(tokenizer: Tokenizer) -> None:
    ids = continuation_ids(tokenizer, "😀")
    assert len(ids) == 4
    texts, own_bytes, rest = texts_and_bytes(tokenizer, tokenizer.encode("a"), ids)
    assert texts == ["", "", "", "😀"]
    assert own_bytes == [b"\xf0", b"\x9f", b"\x98", b"\x80"]
    assert rest == ""


@pytest.mark.parametrize("num_there", [1, 2, 3])
def test_a_character_that_the_prompt_begins_is_all_the_continuation_s(
    tokenizer: Tokenizer, num_there: int
) -> None:
    ids = continuation_ids(tokenizer, "😀")
    prompt_ids = [*tokenizer.encode("a"), *ids[:num_there]]
    texts, own_bytes, _ = texts_and_bytes(tokenizer, prompt_ids, ids[num_there:])
    assert "".join(texts) == "😀"
    assert b"".join(each or b"" for each in own_bytes) == "😀".encode()[num_there:]


def test_a_replacement_character_of_the_prompt_is_not_the_continuation_s(
    tokenizer: Tokenizer,
) -> None:
    prompt_ids = tokenizer.encode(f"a{UNFINISHED}")
    (the,) = continuation_ids(tokenizer, " the")
    assert tokenizer.text_decoder(prompt_ids).add(the) == " the"


def test_characters_before_a_prompt_s_last_tokens_do_not_spoil_what_follows(
    tokenizer: Tokenizer,
) -> None:
    smile = continuation_ids(tokenizer, "😀")
    for num_before in range(4):
        prompt_ids = [*tokenizer.encode("a"), *smile * 4, *smile[:num_before]]
        decoder = tokenizer.text_decoder(prompt_ids)
        texts = [decoder.add(token_id) for token_id in smile[num_before:]]
        assert "".join(texts) == "😀"


def test_special_and_unknown_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.text_decoder(tokenizer.encode("a"))
    for token_id in (*range(len(SPECIAL)), 100_000):
        assert decoder.token_text(token_id) == ("", None)
        assert decoder.add(token_id) == ""
    assert [decoder.special_text(n) for n in range(5)] == [*SPECIAL, ""]


class CountingVocabulary:
    """Bytes as tokens; counts the tokens of the longest decoded window."""

    def __init__(self) -> None:
        self.longest = 0

    def decode(self, token_ids: Sequence[int]) -> str:
        self.longest = max(self.longest, len(token_ids))
        return bytes(token_ids).decode(errors="replace")

    def has_text(self, token_id: int) -> bool:
        return token_id < 256

    def special_text(self, token_id: int) -> str:
        return ""

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])


@given(st.lists(st.sampled_from([*b"a\xff\xe2\x82\xac", 256]), max_size=60))
def test_the_work_of_a_token_does_not_grow(ids: list[int]) -> None:
    vocabulary = CountingVocabulary()
    decoder = TextDecoder(vocabulary, [97] * 1000)
    text = "".join(decoder.add(token_id) for token_id in ids) + decoder.rest()
    expected = bytes(each for each in ids if each < 256).decode(errors="replace")
    assert text == expected
    assert vocabulary.longest <= 16
