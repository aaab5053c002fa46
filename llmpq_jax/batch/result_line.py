"""The result of a line, and its JSON object in the form of the line."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.runtime.request import Completion, FinishReason

# Decoded from a token that is part of a character.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_OPENAI_REASONS: dict[FinishReason, str] = {
    "eos": "stop",
    "stop": "stop",
    "length": "length",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of a line.

    Attributes:
        line: Prompt or bad line that was read.
        completions: Completions of the prompt, one for each choice; none of a bad line.
        plans: Names of the strategies that generated them (`plan_name`), in order.
        token_text: Function from a token id to its text, for log-probabilities.
    """

    line: Prompt | BadLine
    completions: tuple[Completion, ...] = ()
    plans: tuple[str, ...] = ()
    token_text: Callable[[int], str] = str


def result_values(result: Result, *, model: str) -> dict[str, Any]:
    """Returns a result's JSON object, in the form of its line.

    A bad line has an error in the form of OpenAI's batches. `model` is the name of the
    model where the line gives it none.
    """
    line = result.line
    if isinstance(line, BadLine):
        error = {
            "code": "invalid_request",
            "message": line.reason,
            "line": line.number,
        }
        return _openai_line(line.custom_id, None, error)
    if line.form != "plain":
        response = {
            "status_code": 200,
            "request_id": f"req_{uuid.uuid4().hex}",
            "body": _openai_body(line, result, line.model or model),
        }
        values = _openai_line(line.custom_id, response, None)
        # The only key that OpenAI's results lack: programs ignore unknown keys.
        return {**values, "plans": list(result.plans)}
    (completion,) = result.completions
    return {
        "custom_id": line.custom_id,
        "prompt": line.text,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_new_tokens": len(completion.token_ids),
        "plans": list(result.plans),
    }


def _openai_line(
    custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }


def _openai_body(prompt: Prompt, result: Result, model: str) -> dict[str, Any]:
    is_chat = prompt.form == "chat"
    completions = result.completions
    num_prompt = completions[0].num_prompt_tokens
    num_new = sum(len(completion.token_ids) for completion in completions)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            _openai_choice(index, completion, result.token_text, is_chat=is_chat)
            for index, completion in enumerate(completions)
        ],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
        },
    }


def _openai_choice(
    index: int,
    completion: Completion,
    token_text: Callable[[int], str],
    *,
    is_chat: bool,
) -> dict[str, Any]:
    answer = (
        {"message": {"role": "assistant", "content": completion.text}}
        if is_chat
        else {"text": completion.text}
    )
    return {
        "index": index,
        **answer,
        "logprobs": logprobs_values(completion, token_text, is_chat=is_chat),
        "finish_reason": _OPENAI_REASONS[completion.finish_reason],
    }


def logprobs_values(
    completion: Completion, token_text: Callable[[int], str], *, is_chat: bool
) -> dict[str, Any] | None:
    """Returns those of all tokens but the end-of-text token; None if not asked for."""
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
