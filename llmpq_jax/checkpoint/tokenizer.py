"""Converts text to tokens and back with a checkpoint's tokenizer, without the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.arch.model_folder import check_model_folder
from llmpq_jax.checkpoint.text_decoder import TextDecoder
from llmpq_jax.checkpoint.token_bytes import TokenBytes
from llmpq_jax.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Arguments of transformers' `apply_chat_template` that are not for the template. A request
# with a template of its own would run its code here.
_LIBRARY_ARGUMENTS = frozenset(
    {
        "chat_template",
        "conversation",
        "continue_final_message",
        "max_length",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)


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
        self._bytes = TokenBytes(tokenizer)
        self._special_texts = _special_texts(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Loads the tokenizer of a checkpoint folder, without running code of the folder.

        Raises:
            CheckpointError: Its files are missing or damaged.
        """
        with _without_torch_warning():
            # Importing transformers takes seconds.
            from transformers import AutoTokenizer

        # transformers would take another path for a name to look up elsewhere.
        check_model_folder(folder)
        missing = missing_sentencepiece(folder)
        if missing is not None:
            raise CheckpointError(missing)
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

    @property
    def library_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of transformers, for libraries that read it."""
        return self._tokenizer

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's chat template, if it has one."""
        template: Any = self._tokenizer.chat_template
        return template if isinstance(template, str) else None

    @cached_property
    def max_token_bytes(self) -> int:
        """Bytes of the longest token's text, or more: so a text has a minimum of tokens."""
        return max(len(token.encode()) for token in self._tokenizer.get_vocab())

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

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], **template_arguments: Any
    ) -> tuple[int, ...]:
        """Returns the tokens of a conversation, up to the start of the model's answer.

        Each message has a "role" and a "content". Further arguments, such as `tools`, go
        to the checkpoint's chat template.

        Raises:
            RequestError: The checkpoint has no chat template, or its template refuses
                the conversation.
        """
        wrong = template_arguments.keys() & _LIBRARY_ARGUMENTS
        if wrong:
            msg = f"chat_template_kwargs: found {min(wrong)!r}, expected what the model's chat template reads"
            raise RequestError(msg)
        values: Any = {"add_generation_prompt": True} | template_arguments
        if self._tokenizer.chat_template is None:
            msg = f"tokenizer {self._folder}: has no chat template: expected a model tuned for conversation; send a prompt instead of messages"
            raise RequestError(msg)
        try:
            text: Any = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                **values,
                tokenize=False,
            )
        except Exception as reason:  # whatever a template's own code may raise
            msg = f"tokenizer {self._folder}: its chat template refuses the messages ({reason}): expected a conversation it was made for"
            raise RequestError(msg) from reason
        # Templates write special tokens out themselves.
        return self.encode(text, adds_special_tokens=False)

    def info(self) -> dict[str, str | None]:
        """Returns the texts of special tokens, and the chat template."""
        tokenizer: Any = self._tokenizer
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        found = {name: getattr(tokenizer, name) for name in names}
        return {
            "tokenizer_class": type(tokenizer).__name__,
            **found,
            "chat_template": tokenizer.chat_template,
        }

    def decode(
        self, token_ids: Sequence[int], *, skips_special_tokens: bool = True
    ) -> str:
        """Returns the text of tokens, by default without special ones."""
        text: Any = self._tokenizer.decode(
            list(token_ids),
            skip_special_tokens=skips_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return text

    def has_text(self, token_id: int) -> bool:
        """Whether a token is part of a text: it is in the vocabulary and not special."""
        if token_id in self._special_texts:
            return False
        return bool(self._tokenizer.convert_ids_to_tokens(token_id))

    def special_text(self, token_id: int) -> str:
        """Returns how a special token is written, which no text has; "" for all others."""
        return self._special_texts.get(token_id, "")

    def token_bytes(self, token_id: int) -> bytes | None:
        """Returns the bytes of a token by itself; None if it is not in the vocabulary."""
        return self._bytes.of(token_id)

    def text_decoder(self, prompt_ids: Sequence[int] = ()) -> TextDecoder:
        """Starts decoding a prompt's continuation token by token."""
        return TextDecoder(self, prompt_ids)


def missing_sentencepiece(folder: Path) -> str | None:
    """Returns why a folder's tokenizer cannot be read here without sentencepiece, if so."""
    if not (folder / "tokenizer.model").is_file():
        return None
    if (folder / "tokenizer.json").is_file() or find_spec("sentencepiece") is not None:
        return None
    return f"tokenizer {folder}: has a tokenizer.model and no tokenizer.json, and sentencepiece is not installed, which reads it: expected either; `pip install sentencepiece` where prompts are served"


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


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Returns how each token that decoding leaves out is written."""
    special_ids = set(tokenizer.all_special_ids)
    added: Any = tokenizer.added_tokens_decoder
    return {
        token_id: token.content
        for token_id, token in added.items()
        if token.special or token_id in special_ids
    }


def _eos_ids(folder: Path, fallback: object) -> tuple[int, ...]:
    """Returns the tokens that end a text.

    As in transformers, generation_config.json takes the place of config.json. Where the
    file has none, it is the tokenizer's, as in vLLM.
    """
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
        break
    return (
        _as_ids(fallback, where=f"tokenizer {folder}") if fallback is not None else ()
    )


def _as_ids(found: object, *, where: str) -> tuple[int, ...]:
    ids: Any = found if isinstance(found, list) else [found]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        msg = f"{where}: eos_token_id: found {found!r}, expected a token's number or a list of them"
        raise CheckpointError(msg)
    return tuple(ids)
