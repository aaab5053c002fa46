"""Log-probabilities of tokens as OpenAI's two endpoints tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmpq_jax.runtime.request import Completion

# What a part of a character is decoded to.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def logprobs_values(
    completion: Completion, token_text: Callable[[int], str], *, is_chat: bool
) -> dict[str, Any] | None:
    """Returns what was asked for of each token but the one that ends a text, or None.

    Args:
        completion: With its log-probabilities.
        token_text: Says what a token is.
        is_chat: The form is that of conversations.
    """
    if completion.logprobs is None:
        return None
    num_told = len(completion.token_ids) - (completion.finish_reason == "eos")
    told = list(
        zip(
            completion.token_ids[:num_told],
            completion.logprobs[:num_told],
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
            for token_id, each in told
        ]
        return {"content": content, "refusal": None}
    texts = [token_text(token_id) for token_id, _ in told]
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [each.logprob for _, each in told],
        "top_logprobs": [
            {token_text(likely_id): logprob for likely_id, logprob in each.top_tokens}
            for _, each in told
        ],
        "text_offset": offsets[:-1],
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    # Which bytes a part of a character is, decoding does not say.
    is_whole = _UNFINISHED not in text
    return {
        "token": text,
        "logprob": logprob,
        "bytes": list(text.encode()) if is_whole else None,
    }
