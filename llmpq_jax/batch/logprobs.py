"""Log-probabilities of a completion, in the forms of OpenAI's two endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmpq_jax.checkpoint.text_decoder import TextDecoder, TokenText
from llmpq_jax.runtime.request import Completion, TokenLogprobs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    """A token as a candidate for its place in a text, with its log-probability."""

    token_id: int
    text: str
    own_bytes: bytes | None
    logprob: float | None

    def chat_values(self) -> dict[str, Any]:
        own_bytes = None if self.own_bytes is None else list(self.own_bytes)
        return {"token": self.text, "logprob": self.logprob, "bytes": own_bytes}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A place in a text: the token there, and the likeliest ones."""

    token: _Token
    likeliest: tuple[_Token, ...]

    def by_text(self) -> dict[str, float | None]:
        """Returns log-probabilities of the likeliest tokens and of the one there.

        Keys are texts. Where a token without text or several tokens of one text would
        make them ambiguous, they are `token_id:N`.
        """
        values = {self.token.text: self.token.logprob}
        for each in self.likeliest:
            if each.token_id == self.token.token_id:
                continue
            is_clear = each.text and each.text not in values
            values[each.text if is_clear else f"token_id:{each.token_id}"] = (
                each.logprob
            )
        return values


class LogprobsWriter:
    """Log-probabilities of a text that grows, in the forms of OpenAI's two endpoints.

    Texts are what each token adds to the text before it, so that joined they are the whole
    text.
    """

    def __init__(self, decoder: TextDecoder, *, is_chat: bool) -> None:
        """Takes an unused decoder, which starts after the text that is not written."""
        self._decoder = decoder
        self._is_chat = is_chat
        self._offset = 0

    def add(
        self,
        token_ids: Sequence[int],
        found: Sequence[TokenLogprobs | None],
        *,
        is_end: bool = False,
    ) -> dict[str, Any]:
        """Returns those of further tokens.

        Args:
            token_ids: Tokens that come next.
            found: Log-probabilities of each; None for the first of a prompt, which follows
                from nothing.
            is_end: Whether these are the last ones, so that nothing is held back.
        """
        places: list[_Place] = []
        for number, (token_id, each) in enumerate(
            zip(token_ids, found, strict=True), 1
        ):
            likeliest = tuple(
                _token(likely_id, self._decoder.token_text(likely_id), logprob)
                for likely_id, logprob in (each.top_tokens if each else ())
            )
            text = self._decoder.token_text(token_id)
            self._decoder.add(token_id)
            if is_end and number == len(token_ids):
                # What is held back is part of the text, and of no later token's.
                text = text._replace(text=text.text + self._decoder.rest())
            token = _token(token_id, text, each.logprob if each else None)
            places.append(_Place(token=token, likeliest=likeliest))
        return self._chat(places) if self._is_chat else self._completion(places)

    def _chat(self, places: list[_Place]) -> dict[str, Any]:
        content = [
            {
                **place.token.chat_values(),
                "top_logprobs": [each.chat_values() for each in place.likeliest],
            }
            for place in places
        ]
        return {"content": content, "refusal": None}

    def _completion(self, places: list[_Place]) -> dict[str, Any]:
        texts = [place.token.text for place in places]
        offsets: list[int] = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [place.token.logprob for place in places],
            "top_logprobs": [
                None if place.token.logprob is None else place.by_text()
                for place in places
            ],
            "text_offset": offsets,
        }


def logprobs_values(
    completion: Completion, decoder: TextDecoder, *, is_chat: bool
) -> dict[str, Any]:
    """Returns those of all tokens but the end-of-text token; see `LogprobsWriter`.

    The decoder, which is unused, starts after the prompt.
    """
    assert completion.logprobs is not None
    num_tokens = len(completion.token_ids) - (completion.finish_reason == "eos")
    return LogprobsWriter(decoder, is_chat=is_chat).add(
        completion.token_ids[:num_tokens],
        completion.logprobs[:num_tokens],
        is_end=True,
    )


def echoed_logprobs(
    completion: Completion, decoder: TextDecoder, *, is_prompt_only: bool
) -> dict[str, Any]:
    """Returns those of the prompt's tokens and of the completion's, for completions.

    There is one for each token, an end-of-text token too, so that the prompt's are found
    by their number. The decoder, which is unused, starts with the prompt.
    """
    assert completion.prompt_logprobs is not None
    token_ids = completion.prompt_token_ids
    found: tuple[TokenLogprobs | None, ...] = (None, *completion.prompt_logprobs)
    if not is_prompt_only:
        token_ids += completion.token_ids
        found += completion.logprobs or ()
    return LogprobsWriter(decoder, is_chat=False).add(token_ids, found, is_end=True)


def _token(token_id: int, text: TokenText, logprob: float | None) -> _Token:
    return _Token(
        token_id=token_id, text=text.text, own_bytes=text.own_bytes, logprob=logprob
    )
