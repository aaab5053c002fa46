"""What became of a line, and the JSON that says so."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from llmpq_jax.runtime.request import Completion, FinishReason
from llmpq_jax.workflow.prompt import BadLine, Prompt

_OPENAI_REASONS: dict[FinishReason, str] = {
    "eos": "stop",
    "stop": "stop",
    "length": "length",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of a line.

    Attributes:
        line: That was read.
        completion: Of its prompt; absent where the line is bad.
    """

    line: Prompt | BadLine
    completion: Completion | None = None


def result_values(result: Result, *, model: str) -> dict[str, Any]:
    """Returns a result as JSON has it, in the form of its line.

    Args:
        result: Of any form; of a bad line the error of OpenAI's batches.
        model: What it is called in the results of lines that do not call it anything.
    """
    line, completion = result.line, result.completion
    if isinstance(line, BadLine):
        error = {
            "code": "invalid_request",
            "message": line.reason,
            "line": line.number,
        }
        return _openai_line(line.custom_id, None, error)
    assert completion is not None
    if line.form != "plain":
        response = {
            "status_code": 200,
            "request_id": f"req_{uuid.uuid4().hex}",
            "body": _openai_body(line, completion, line.model or model),
        }
        return _openai_line(line.custom_id, response, None)
    return {
        "custom_id": line.custom_id,
        "prompt": line.text,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_new_tokens": len(completion.token_ids),
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


def _openai_body(prompt: Prompt, completion: Completion, model: str) -> dict[str, Any]:
    is_chat = prompt.form == "chat"
    said = (
        {"message": {"role": "assistant", "content": completion.text}}
        if is_chat
        else {"text": completion.text}
    )
    choice = {
        "index": 0,
        **said,
        "logprobs": None,
        "finish_reason": _OPENAI_REASONS[completion.finish_reason],
    }
    num_new = len(completion.token_ids)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": completion.num_prompt_tokens,
            "completion_tokens": num_new,
            "total_tokens": completion.num_prompt_tokens + num_new,
        },
    }
