"""Answers in the forms of OpenAI's two endpoints."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from llmpq_jax.batch.answer import AnswerSplitter, tool_form_of
from llmpq_jax.batch.logprobs import echoed_logprobs, logprobs_values
from llmpq_jax.batch.prompt import Prompt
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.runtime.request import Completion, FinishReason

# Tokens at the end of a prompt in which reasoning may begin.
_PROMPT_END = 8
FINISH_REASONS: dict[FinishReason, str] = {
    "eos": "stop",
    "stop": "stop",
    "length": "length",
    # Nobody waits for it.
    "cancelled": "stop",
}


def response_values(
    prompt: Prompt,
    completions: Sequence[Completion],
    *,
    model: str,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """Returns the answer to a prompt, in the form of its endpoint.

    Args:
        prompt: Prompt with its options.
        completions: Completions of its prompts, all choices of one after the other.
        model: Name of the model for the client.
        tokenizer: Tokenizer of the model, for log-probabilities, echoes, and what chat
            templates say of reasoning and calls.
    """
    is_chat = prompt.form == "chat"
    return {
        "id": response_id(is_chat=is_chat),
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            _choice(prompt, index, completion, tokenizer)
            for index, completion in enumerate(completions)
        ],
        "usage": usage_values(prompt, completions),
    }


def response_id(*, is_chat: bool) -> str:
    """Returns a new name of an answer."""
    return f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"


def usage_values(prompt: Prompt, completions: Sequence[Completion]) -> dict[str, int]:
    """Returns the tokens of prompts and completions; each prompt counts once."""
    num_prompt = sum(
        each.num_prompt_tokens for each in completions[:: prompt.num_choices]
    )
    num_new = sum(len(each.token_ids) for each in completions)
    if prompt.is_prompt_only:
        num_new = 0
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_new,
        "total_tokens": num_prompt + num_new,
    }


def echoed_text(
    prompt: Prompt, index: int, token_ids: Sequence[int], tokenizer: Tokenizer
) -> str:
    """Returns the text of the prompt of one of the continuations."""
    content = prompt.contents[index // prompt.num_choices]
    if isinstance(content, str):
        return content
    return tokenizer.decode(token_ids)


def _choice(
    prompt: Prompt, index: int, completion: Completion, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    is_chat = prompt.form == "chat"
    text = completion.text
    if prompt.echoes:
        assert tokenizer is not None
        echoed = echoed_text(prompt, index, completion.prompt_token_ids, tokenizer)
        text = echoed if prompt.is_prompt_only else echoed + text
    answer: dict[str, Any] = {"text": text}
    reason = (
        "length" if prompt.is_prompt_only else FINISH_REASONS[completion.finish_reason]
    )
    if is_chat:
        message = _message(prompt, completion, tokenizer)
        answer = {"message": message}
        if message.get("tool_calls"):
            reason = "tool_calls"
    logprobs = None
    if completion.prompt_logprobs is not None:
        assert tokenizer is not None
        logprobs = echoed_logprobs(
            completion,
            tokenizer.text_decoder(),
            is_prompt_only=prompt.is_prompt_only,
        )
    elif completion.logprobs is not None:
        assert tokenizer is not None
        decoder = tokenizer.text_decoder(completion.prompt_token_ids)
        logprobs = logprobs_values(completion, decoder, is_chat=is_chat)
    return {
        "index": index,
        **answer,
        "logprobs": logprobs,
        "finish_reason": reason,
    }


def answer_splitter(
    prompt: Prompt, token_ids: Sequence[int], tokenizer: Tokenizer | None
) -> AnswerSplitter:
    """Returns what splits the answer to a prompt, of which these are the tokens."""
    if tokenizer is None:
        return AnswerSplitter("", None)
    end = tokenizer.decode(token_ids[-_PROMPT_END:], skips_special_tokens=False)
    form = tool_form_of(tokenizer.chat_template) if prompt.calls_tools else None
    tools = prompt.template_arguments.get("tools") or ()
    return AnswerSplitter(end, form, tools=tools)


def _message(
    prompt: Prompt, completion: Completion, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Returns an answer as a message."""
    splitter = answer_splitter(prompt, completion.prompt_token_ids, tokenizer)
    parts = list(splitter.add(completion.text))
    rest, calls = splitter.end()
    texts = {"reasoning": "", "content": ""}
    for channel, text in (*parts, *rest):
        texts[channel] += text
    message: dict[str, Any] = {"role": "assistant", "content": texts["content"]}
    if texts["reasoning"]:
        message["reasoning_content"] = texts["reasoning"]
    if calls:
        message["content"] = texts["content"] or None
        message["tool_calls"] = [call.values() for call in calls]
    return message
