"""Converts text to tokens and back with a checkpoint's tokenizer, without the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a byte-level tokenizer decodes an unfinished character to.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """A checkpoint's tokenizer, with the tokens that end its texts.

    Attributes:
        eos_ids: Tokens that end a text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: tuple[int, ...],
        folder: Path,
    ) -> None:
        """Wraps a tokenizer that is loaded; see `Tokenizer.load`."""
        self.eos_ids = eos_ids
        self._tokenizer = tokenizer
        self._folder = folder

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Loads the tokenizer of a checkpoint folder, without running code of the folder.

        Raises:
            CheckpointError: Its files are missing or damaged.
        """
        with _without_torch_warning():
            # Importing transformers takes seconds.
            from transformers import AutoTokenizer

        if not folder.is_dir():
            # transformers would take the path for a name to look up elsewhere.
            msg = f"tokenizer {folder}: is not a folder: expected a checkpoint folder with tokenizer.json"
            raise CheckpointError(msg)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as reason:  # whatever its parsers, in two languages, raise
            first_line = (str(reason) or repr(reason)).strip().splitlines()[0]
            msg = f"tokenizer {folder}: cannot be loaded ({first_line}): expected the tokenizer files of a Hugging Face checkpoint, such as tokenizer.json"
            raise CheckpointError(msg) from reason
        eos_ids = _eos_ids(folder, tokenizer.eos_token_id)
        return cls(tokenizer, eos_ids=eos_ids, folder=folder)

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        """Returns a text's tokens, with the special tokens the model expects at its start."""
        encoded = self._tokenizer(
            text,
            add_special_tokens=adds_special_tokens,
            return_attention_mask=False,
            # Or it warns of texts longer than the model's context, which we check.
            verbose=False,
        )
        ids: Any = encoded["input_ids"]
        return tuple(ids)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Returns the tokens of a conversation, up to the start of the model's answer.

        Each message has a "role" and a "content".

        Raises:
            RequestError: The checkpoint has no chat template, or its template refuses
                the conversation.
        """
        if self._tokenizer.chat_template is None:
            msg = f"tokenizer {self._folder}: has no chat template: expected a model tuned for conversation; send a prompt instead of messages"
            raise RequestError(msg)
        try:
            text: Any = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as reason:  # whatever a template's own code may raise
            msg = f"tokenizer {self._folder}: its chat template refuses the messages ({reason}): expected a conversation it was made for"
            raise RequestError(msg) from reason
        # Templates write special tokens out themselves.
        return self.encode(text, adds_special_tokens=False)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of tokens, without special ones."""
        text: Any = self._tokenizer.decode(
            list(token_ids),
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return text

    def text_decoder(self) -> TextDecoder:
        """Starts decoding one continuation token by token."""
        return TextDecoder(self)


class TextDecoder:
    """Decodes tokens one by one, holding incomplete characters back.

    A token's text may depend on the one before it (a leading space is dropped at the
    start of a text), so a short window is decoded again with every token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Starts with no tokens."""
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._window_start = 0
        self._num_shown = 0

    def add(self, token_id: int) -> str:
        """Adds a token; returns the text it completed, possibly empty."""
        self._token_ids.append(token_id)
        text = self.rest()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._window_start = self._num_shown
        self._num_shown = len(self._token_ids)
        return text

    def rest(self) -> str:
        """Returns the text that is held back, such as half a character."""
        window = self._token_ids[self._window_start :]
        shown = self._num_shown - self._window_start
        return self._tokenizer.decode(window)[
            len(self._tokenizer.decode(window[:shown])) :
        ]


@contextmanager
def _without_torch_warning() -> Iterator[None]:
    """Suppresses the warning of transformers that PyTorch, not needed here, is missing."""
    logger = logging.getLogger("transformers")

    def is_other_warning(record: logging.LogRecord) -> bool:
        return "PyTorch was not found" not in record.getMessage()

    logger.addFilter(is_other_warning)
    try:
        yield
    finally:
        logger.removeFilter(is_other_warning)


def _eos_ids(folder: Path, fallback: object) -> tuple[int, ...]:
    """Returns the tokens that end a text, from the first file that names them."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as reason:
            msg = f"config {path}: cannot be read as JSON ({reason}): expected the file of a Hugging Face checkpoint"
            raise CheckpointError(msg) from reason
        found = values.get("eos_token_id") if isinstance(values, dict) else None
        if found is not None:
            return _as_ids(found, where=f"config {path}")
    return (
        _as_ids(fallback, where=f"tokenizer {folder}") if fallback is not None else ()
    )


def _as_ids(found: object, *, where: str) -> tuple[int, ...]:
    ids: Any = found if isinstance(found, list) else [found]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        msg = f"{where}: eos_token_id: found {found!r}, expected a token's number or a list of them"
        raise CheckpointError(msg)
    return tuple(ids)
