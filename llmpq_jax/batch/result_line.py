"""The result of a line, and its JSON object in the form of the line."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from llmpq_jax.batch.openai_response import response_values
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.runtime.request import Completion


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of a line.

    Attributes:
        line: Prompt or bad line that was read.
        completions: Completions of the prompts, all choices of one after the other; none
            of a bad line.
        plans: Names of the strategies that generated them (`plan_name`), in order.
        tokenizer: Tokenizer of the model; None of a bad line.
    """

    line: Prompt | BadLine
    completions: tuple[Completion, ...] = ()
    plans: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None


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
            "body": response_values(
                line,
                result.completions,
                model=line.model or model,
                tokenizer=result.tokenizer,
            ),
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
