"""Log-probabilities of tokens in the form of OpenAI's two endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmpq_jax.runtime.request import Completion

# Decoded from a token that is part of a character.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def logprobs_values(
    completion: Completion, token_text: Callable[[int], str], *, is_chat: bool
) -> dict[str, Any] | None:
    """Returns the log-probabilities of all tokens but the end-of-text token.

    Args:
        completion: Completion of a request.
        token_text: Function from a token id to its text.
        is_chat: Whether the form is that of conversations.

    Returns:
        JSON object, or None if the request asked for none.
    """
    if completion.logprobs is None:
        return None
    num_tokens = len(completion.token_ids) - (completion.finish_reason == "eos")
    tokens = list(
        zip(
            completion.token_ids[:num_tokens],
            completion.logprobs[:num_tokens],
            strict=True,
        )
    )
    if is_chat:
        content = [
            _token(token_text(token_id), each.logprob)
            | {
                "top_logprobs": [
                    _token(token_text(likely_id), logprob)
                    for likely_id, logprob in each.top_tokens
                ]
            }
            for token_id, each in tokens
        ]
        return {"content": content, "refusal": None}
    texts = [token_text(token_id) for token_id, _ in tokens]
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [each.logprob for _, each in tokens],
        "top_logprobs": [
            {token_text(likely_id): logprob for likely_id, logprob in each.top_tokens}
            for _, each in tokens
        ],
        "text_offset": offsets[:-1],
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    # Decoding does not give the bytes of a part of a character.
    is_whole = _UNFINISHED not in text
    return {
        "token": text,
        "logprob": logprob,
        "bytes": list(text.encode()) if is_whole else None,
    }
