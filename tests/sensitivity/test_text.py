from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.sensitivity.text import read_text
from tests.support.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_tiny_model(tmp_path_factory.mktemp("model")))


def _write(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text)
    return path


def test_windows_follow_one_another_and_the_rest_is_left_out(tokenizer, tmp_path):
    path = _write(tmp_path, "abcdefghij" * 3 + "xyz")
    text = read_text(path, tokenizer, window=10)
    assert text.tokens.shape == (3, 10)
    assert tokenizer.decode(text.tokens[1].tolist()) == "abcdefghij"
    assert text.num_predicted == 27
    assert text.num_bytes == 27
    assert text.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_bytes_are_counted_not_characters(tokenizer, tmp_path):
    text = read_text(_write(tmp_path, "aé" * 8), tokenizer, window=24)
    assert text.num_bytes == 23


def test_fewer_windows_are_spread_over_the_text(tokenizer, tmp_path):
    path = _write(tmp_path, "".join(letter * 4 for letter in "abcdefgh"))
    text = read_text(path, tokenizer, window=4, max_tokens=18)
    starts = tokenizer.decode(text.tokens[:, 0].tolist())
    assert starts == "aceg"
    np.testing.assert_array_equal(text.tokens, np.repeat(text.tokens[:, :1], 4, axis=1))


def test_a_text_shorter_than_a_window_is_refused(tokenizer, tmp_path):
    path = _write(tmp_path, "abc")
    with pytest.raises(
        RequestError, match="has 3 tokens: expected at least 8, one wind"
    ):
        read_text(path, tokenizer, window=8)


def test_a_text_that_cannot_be_read_is_refused(tokenizer, tmp_path):
    with pytest.raises(RequestError, match=r"missing\.txt: cannot be read"):
        read_text(tmp_path / "missing.txt", tokenizer, window=8)
    path = tmp_path / "bytes.txt"
    path.write_bytes(b"ab\xff")
    with pytest.raises(RequestError, match=r"is not UTF-8 text \(byte 2\)"):
        read_text(path, tokenizer, window=8)
