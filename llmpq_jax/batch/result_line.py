"""The result of a line, and its JSON object in the form of the line."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmpq_jax.batch.logprobs import logprobs_values
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.checkpoint.text_decoder import TextDecoder
from llmpq_jax.runtime.request import Completion, FinishReason

# Starts decoding the continuation of a prompt's tokens.
StartDecoder = Callable[[Sequence[int]], TextDecoder]

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
        completions: Completions of the prompts, all choices of one after the other; none
            of a bad line.
        plans: Names of the strategies that generated them (`plan_name`), in order.
        start_decoder: Function that decodes the tokens, for log-probabilities; None if no
            completion has any.
    """

    line: Prompt | BadLine
    completions: tuple[Completion, ...] = ()
    plans: tuple[str, ...] = ()
    start_decoder: StartDecoder | None = None


def result_values(result: Result, *, model: str) -> dict[str, Any]:
    """Returns a result's JSON object, in the form of its line.

    A bad line has an error in the form of OpenAI's batches. `model` is the name of the
    model where the line gives it none.
    """
    line = result.line
    if isinstance(line, BadLine):
        error = {
            "code": line.code,
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
    # Each prompt counts once, whatever its number of choices.
    num_prompt = sum(
        each.num_prompt_tokens for each in completions[:: prompt.num_choices]
    )
    num_new = sum(len(completion.token_ids) for completion in completions)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            _openai_choice(index, completion, result.start_decoder, is_chat=is_chat)
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
    start_decoder: StartDecoder | None,
    *,
    is_chat: bool,
) -> dict[str, Any]:
    answer = (
        {"message": {"role": "assistant", "content": completion.text}}
        if is_chat
        else {"text": completion.text}
    )
    logprobs = None
    if completion.logprobs is not None:
        assert start_decoder is not None
        decoder = start_decoder(completion.prompt_token_ids)
        logprobs = logprobs_values(completion, decoder, is_chat=is_chat)
    return {
        "index": index,
        **answer,
        "logprobs": logprobs,
        "finish_reason": _OPENAI_REASONS[completion.finish_reason],
    }
