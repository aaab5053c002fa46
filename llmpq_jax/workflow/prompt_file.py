"""Prompts as people write them: JSON lines, or plain text with one on each line.

Everything is checked before anything is loaded, and every complaint names its line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import Sampling

GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt with its choices.

    Attributes:
        custom_id: Names it in the results; unique.
        text: The prompt.
        where: For messages: "prompts.jsonl line 3".
        max_new_tokens: At most so many; absent for as many as the strategy plans for.
        sampling: How tokens are chosen.
        stop: The continuation ends before the first of these texts.
    """

    custom_id: str
    text: str
    where: str
    max_new_tokens: int | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What holds for prompts that do not say otherwise; see `Prompt`."""

    max_new_tokens: int | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()


# The type JSON must have, and what to call it.
_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "prompt": ((str,), "a text"),
    "custom_id": ((str,), "a text"),
    "max_new_tokens": ((int,), "a whole number"),
    "max_tokens": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_k": ((int,), "a whole number"),
    "top_p": ((int, float), "a number"),
    "seed": ((int,), "a whole number"),
    "stop": ((str, list), "a text or a list of them"),
}
_SAMPLING_KEYS = ("temperature", "top_k", "top_p", "seed")


def prompts_of(texts: tuple[str, ...], choices: Choices) -> tuple[Prompt, ...]:
    """Makes prompts of texts given one by one."""
    return tuple(
        _prompt(
            {"prompt": text},
            choices,
            custom_id=f"prompt-{number}",
            where=f"prompt {number}",
        )
        for number, text in enumerate(texts, start=1)
    )


def read_prompts(path: Path, choices: Choices) -> tuple[Prompt, ...]:
    """Reads a file of prompts, .jsonl or .txt; empty lines are passed over.

    Raises:
        RequestError: The file cannot be read, holds no prompt, or a line is not one.
    """
    if path.suffix not in {".jsonl", ".txt"}:
        msg = f"prompts {path}: ends in {path.suffix!r}: expected .jsonl (one JSON object a line) or .txt (one prompt a line)"
        raise RequestError(msg)
    prompts = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"prompts {path} line {number}"
        values = _parse(line, where) if path.suffix == ".jsonl" else {"prompt": line}
        prompt = _prompt(values, choices, custom_id=f"line-{number}", where=where)
        if prompt.custom_id in lines_of:
            msg = f"{where}: custom_id {prompt.custom_id!r} is that of line {lines_of[prompt.custom_id]} too: expected each once, results are told apart by it"
            raise RequestError(msg)
        lines_of[prompt.custom_id] = number
        prompts.append(prompt)
    if not prompts:
        msg = f"prompts {path}: holds no prompt: expected one on each line"
        raise RequestError(msg)
    return tuple(prompts)


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as reason:
        msg = f"prompts {path}: cannot be read ({reason.strerror or reason}): expected a .jsonl or .txt file"
        raise RequestError(msg) from reason
    except UnicodeDecodeError as reason:
        msg = (
            f"prompts {path}: is not UTF-8 text (byte {reason.start}): save it as UTF-8"
        )
        raise RequestError(msg) from reason
    # Not splitlines(): it also cuts at characters that may stand inside JSON texts.
    return [line.removesuffix("\r") for line in text.split("\n")]


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as reason:
        msg = f'{where}: is not JSON ({reason}): expected {{"prompt": "…"}}'
        raise RequestError(msg) from reason
    if not isinstance(values, dict):
        msg = f'{where}: found a {type(values).__name__}, expected an object such as {{"prompt": "…"}}'
        raise RequestError(msg)
    if "prompt" not in values:
        msg = f'{where}: prompt: missing, expected a text as in {{"prompt": "…"}}'
        raise RequestError(msg)
    for key, value in values.items():
        if key not in _KEYS:
            msg = f"{where}: {key}: unknown key; expected one of {', '.join(_KEYS)}"
            raise RequestError(msg)
        kinds, what = _KEYS[key]
        # JSON's true and false are Python's int too.
        if not isinstance(value, kinds) or isinstance(value, bool):
            msg = f"{where}: {key}: found {value!r}, expected {what}"
            raise RequestError(msg)
    if "max_tokens" in values and "max_new_tokens" in values:
        msg = f"{where}: max_tokens and max_new_tokens mean the same: expected one"
        raise RequestError(msg)
    return values


def _prompt(
    values: dict[str, Any], choices: Choices, *, custom_id: str, where: str
) -> Prompt:
    if not values["prompt"]:
        msg = f"{where}: the prompt is empty: expected at least one character"
        raise RequestError(msg)
    stop = values.get("stop", choices.stop)
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in stop):
        msg = f"{where}: stop: found {list(stop)}, expected texts of at least one character"
        raise RequestError(msg)
    max_new_tokens = values.get(
        "max_new_tokens", values.get("max_tokens", choices.max_new_tokens)
    )
    if max_new_tokens is not None and max_new_tokens < 1:
        msg = f"{where}: max_new_tokens is {max_new_tokens}, expected at least 1"
        raise RequestError(msg)
    sampling_values = {key: values[key] for key in _SAMPLING_KEYS if key in values}
    try:
        sampling = replace(choices.sampling, **sampling_values)
    except RequestError as reason:
        msg = f"{where}: {reason}"
        raise RequestError(msg) from reason
    return Prompt(
        custom_id=values.get("custom_id", custom_id),
        text=values["prompt"],
        where=where,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop,
    )
