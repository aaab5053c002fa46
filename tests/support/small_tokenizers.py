"""Tokenizers of both kinds, small enough to write in a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>")
LETTERS = "▁abcdefghijklmnopqrstuvwxyz.,!"


def write_byte_level(folder: Path, words: Sequence[str] = ()) -> None:
    """Writes a tokenizer whose pieces are bytes as printable characters, and words.

    Words are merged from pieces of the alphabet: "Ġthe" is " the".
    """
    vocabulary = _numbered([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    merges = _merges(words, vocabulary)
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _write(folder, tokenizer)


def write_sentencepiece(folder: Path, words: Sequence[str] = ()) -> None:
    """Writes a tokenizer as that of Llama 2: spaces are "▁", other bytes "<0xNN>".

    It puts a space before each text, and drops it when it decodes.
    """
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = _numbered([*SPECIAL, *pieces, *LETTERS])
    merges = _merges(words, vocabulary)
    model = models.BPE(
        vocab=vocabulary,
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    _write(folder, tokenizer)


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


def _merges(words: Sequence[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Adds words to a vocabulary, letter by letter; returns the merges that make them."""
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocabulary:
                vocabulary[word[: end + 1]] = len(vocabulary)
                merges.append((word[:end], word[end]))
    return merges


def _write(folder: Path, tokenizer: Any) -> None:
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
