"""The grammar of an answer that calls tools, in the form in which a model writes calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmpq_jax.files import json_text

_NO_ARGUMENTS = {"type": "object", "properties": {}}
# The end of a parameter that is a text, and what is no text because it has one before.
_TEXT_END = r"\n<\/parameter>\n"
_ENDS_EARLIER = r"/(?s:.*)<\/parameter>(?s:..+|[^\n])/"


def calls_grammar(
    form: str,
    tools: Sequence[Mapping[str, Any]],
    *,
    is_single: bool,
    json_style: Mapping[str, Any],
) -> str:
    """Returns the grammar of calls of tools, in llguidance's dialect of Lark.

    Args:
        form: How the model writes calls; see `batch.answer.ToolForm`.
        tools: Functions that may be called, with "name" and, as a JSON schema,
            "parameters".
        is_single: Whether there is one call; otherwise there is at least one.
        json_style: White space of JSON.

    Raises:
        ValueError: The form is unknown.
    """

    def json_rule(name: str, schema: object) -> str:
        if isinstance(schema, dict):
            schema = {**schema, "x-guidance": dict(json_style)}
        return f"{name}: %json {json_text(schema)}"

    names = [f"call_{number}" for number in range(len(tools))]
    body = " | ".join(names)
    rules: list[str] = []
    match form:
        case "hermes" | "llama3":
            key = "arguments" if form == "hermes" else "parameters"
            for name, tool in zip(names, tools, strict=True):
                start = f'{{"name": {json_text(tool["name"])}, "{key}": '
                rules.append(f'{name}: {json_text(start)} {name}_arguments "}}"')
                schema = tool.get("parameters") or _NO_ARGUMENTS
                rules.append(json_rule(f"{name}_arguments", schema))
        case "qwen3_coder":
            for name, tool in zip(names, tools, strict=True):
                rules += _tagged_rules(name, tool, json_rule)
        case _:
            msg = f"the form of calls {form!r} is unknown"
            raise ValueError(msg)
    if form == "llama3":
        # Its calls are JSON alone; several would need a character between them.
        return "\n".join([f"start: {body}", *rules])
    call = f'call: "<tool_call>\\n" ({body}) "\\n</tool_call>"'
    more = "" if is_single else ' ("\\n" call)*'
    return "\n".join([f"start: call{more}", call, *rules])


def _tagged_rules(name: str, tool: Mapping[str, Any], json_rule: Any) -> Iterator[str]:
    """Yields the rules of a call of Qwen3-Coder, with its parameters in their order."""
    schema = tool.get("parameters") or _NO_ARGUMENTS
    required = schema.get("required", ())
    parts: list[str] = []
    for number, (key, value) in enumerate(schema.get("properties", {}).items()):
        rule = f"{name}_{number}"
        parts.append(rule if key in required else f"{rule}?")
        start = json_text(f"<parameter={key}>\n")
        is_text = isinstance(value, dict) and value.get("type") == "string"
        if is_text and ("enum" in value or "const" in value):
            allowed = value["enum"] if "enum" in value else [value["const"]]
            texts = " | ".join(map(json_text, allowed))
            yield f'{rule}: {start} ({texts}) "\\n</parameter>\\n"'
        elif is_text:
            yield f"{rule}: {start} TEXT_{rule.upper()}"
            yield f"TEXT_{rule.upper()}: {_text_terminal(value)}"
        else:
            yield f'{rule}: {start} {rule}_value "\\n</parameter>\\n"'
            shared = {"$defs": schema["$defs"]} if "$defs" in schema else {}
            own = {**shared, **value} if isinstance(value, dict) else value
            yield json_rule(f"{rule}_value", own)
    function = json_text(f"<function={tool['name']}>\n")
    yield f'{name}: {function} {" ".join(parts)} "</function>"'


def _text_terminal(schema: Mapping[str, Any]) -> str:
    """Returns the terminal of a parameter that is a text, not JSON, with its end."""
    length = f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
    parts = [f"/(?s:.{length}){_TEXT_END}/"]
    if "pattern" in schema:
        # Found anywhere in the text, unless it says that it starts or ends there.
        pattern = str(schema["pattern"])
        is_start, is_end = pattern.startswith("^"), _ends_text(pattern)
        pattern = pattern.removeprefix("^")[: -1 if is_end else None]
        pattern = re.sub(r"(?<!\\)/", r"\/", pattern)
        before, after = ("" if is_start else "(?s:.*)"), ("" if is_end else "(?s:.*)")
        parts.append(f"/{before}(?:{pattern}){after}{_TEXT_END}/")
    return " & ".join([*parts, f"~{_ENDS_EARLIER}"])


def _ends_text(pattern: str) -> bool:
    """Whether a pattern ends with a dollar sign that is no character to be found."""
    num_backslashes = len(pattern[:-1]) - len(pattern[:-1].rstrip("\\"))
    return pattern.endswith("$") and num_backslashes % 2 == 0
