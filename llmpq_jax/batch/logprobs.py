"""Log-probabilities of a completion, in the forms of OpenAI's two endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmpq_jax.checkpoint.text_decoder import TextDecoder, TokenText
from llmpq_jax.runtime.request import Completion


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    """A token as a candidate for its place in a text, with its log-probability."""

    token_id: int
    text: str
    own_bytes: bytes | None
    logprob: float

    def chat_values(self) -> dict[str, Any]:
        own_bytes = None if self.own_bytes is None else list(self.own_bytes)
        return {"token": self.text, "logprob": self.logprob, "bytes": own_bytes}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A place in a text: the token there, and the likeliest ones."""

    token: _Token
    likeliest: tuple[_Token, ...]

    def by_text(self) -> dict[str, float]:
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


def logprobs_values(
    completion: Completion, decoder: TextDecoder, *, is_chat: bool
) -> dict[str, Any]:
    """Returns those of all tokens but the end-of-text token.

    The decoder, which is unused, starts after the prompt. Texts are what each token adds
    to the text before it, so that joined they are the whole text.
    """
    places = _places(completion, decoder)
    if is_chat:
        content = [
            {
                **place.token.chat_values(),
                "top_logprobs": [each.chat_values() for each in place.likeliest],
            }
            for place in places
        ]
        return {"content": content, "refusal": None}
    texts = [place.token.text for place in places]
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [place.token.logprob for place in places],
        "top_logprobs": [place.by_text() for place in places],
        "text_offset": offsets[:-1],
    }


def _places(completion: Completion, decoder: TextDecoder) -> list[_Place]:
    """Returns the places of a completion's tokens, without that of an end token."""
    assert completion.logprobs is not None
    num_tokens = len(completion.token_ids) - (completion.finish_reason == "eos")
    places: list[_Place] = []
    for number, token_id in enumerate(completion.token_ids[:num_tokens], start=1):
        found = completion.logprobs[number - 1]
        likeliest = tuple(
            _token(likely_id, decoder.token_text(likely_id), logprob)
            for likely_id, logprob in found.top_tokens
        )
        text = decoder.token_text(token_id)
        decoder.add(token_id)
        if number == num_tokens:
            # What is held back is part of the text, and of no later token's.
            text = text._replace(text=text.text + decoder.rest())
        token = _token(token_id, text, found.logprob)
        places.append(_Place(token=token, likeliest=likeliest))
    return places


def _token(token_id: int, text: TokenText, logprob: float) -> _Token:
    return _Token(
        token_id=token_id, text=text.text, own_bytes=text.own_bytes, logprob=logprob
    )
