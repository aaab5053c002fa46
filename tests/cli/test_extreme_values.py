"""Whatever a line or an option holds, it gets one line of error, and others are served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# Written as in a file, because some are no values of Python's, or no JSON.
NUMBERS = (
    *("-1", "0", "1", "-0.0", "4.0", "0.5", "1e-50", "1e400", "-1e400", "1e300"),
    *("2147483648", "-2147483649", "4294967296", "9223372036854775807"),
    *("-9223372036854775808", "9223372036854775808", "1" + "0" * 400, "9" * 5000),
    *("NaN", "Infinity", "-Infinity"),
)
OTHERS = (
    *("null", "true", '"text"', '""', '"1"', "[]", "{}", "[1, [2]]", '{"a": 1}'),
    *('"\\ud83d"', "[" * 900 + "]" * 900, "[" * 1000 + "]" * 1000),
    *("[" * 100_000, '{"a":' * 300 + "1" + "}" * 300),
)
CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
COMMON = ("temperature", "top_k", "top_p", "seed", "stop", "max_tokens", "unheard_of")
BODY = (*COMMON, "n", "logprobs", "model", "user", "logit_bias", "presence_penalty")
FIELDS = {
    "plain": (*COMMON, "max_new_tokens", "prompt", "custom_id"),
    CHAT: (*BODY, "max_completion_tokens", "top_logprobs", "messages"),
    COMPLETION: (*BODY, "prompt", "best_of"),
}
HELLO = '[{"role": "user", "content": "hi"}]'


def line_of(form: str, field: str, value: str, name: str) -> str:
    """Returns a line with one field set, as it is written."""
    fields = {"max_tokens": "2"}
    if field in ("max_new_tokens", "max_completion_tokens"):
        fields = {}
    fields |= {"messages": HELLO} if form == CHAT else {"prompt": '"a"'}
    if field == "top_logprobs":
        fields["logprobs"] = "true"
    if form == "plain":
        fields["custom_id"] = json.dumps(name)
    body = "{" + ", ".join(f'"{k}": {v}' for k, v in (fields | {field: value}).items())
    if form == "plain":
        return body + "}"
    return f'{{"custom_id": "{name}", "url": "{form}", "body": {body}}}}}'


LINES = [
    line_of(form, field, value, f"{number}-{at}-{form}-{field}")
    for number, value in enumerate((*NUMBERS, *OTHERS))
    for form, fields in FIELDS.items()
    for at, field in enumerate(fields)
] + [
    line_of(COMPLETION, "prompt", prompt.replace("N", value), f"{number}-{at}-ids")
    for number, value in enumerate((*NUMBERS, *OTHERS))
    for at, prompt in enumerate(("[N]", "[1, N]", "[[N]]", "[[1], N]", '["a", N]'))
]


@pytest.mark.parametrize(
    "step", [7, pytest.param(1, marks=pytest.mark.full)], ids=["a sample", "all"]
)
def test_a_line_of_any_values_has_one_result(
    run, strategy, model: Path, tmp_path: Path, step: int
) -> None:
    good = '{"custom_id": "NAME", "prompt": "def f", "max_tokens": 2}'
    sample = LINES[::step]
    lines = [good.replace("NAME", "first"), *sample, good.replace("NAME", "last")]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(lines))
    out = tmp_path / "results.jsonl"
    result = run(
        *("generate", "--strategy", strategy, "--prompts", prompts, "--out", out),
        *("--weights-cache", "none", "--ignore-eos"),
    )
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    rows = [strictly(line) for line in out.read_text().splitlines()]
    assert len(rows) == len(lines)
    names = {row["custom_id"]: row for row in rows}
    assert names["first"]["text"] == names["last"]["text"]
    for row in rows:
        error = row.get("error")
        if error is not None:
            assert len(error["message"]) <= 700
            assert "\n" not in error["message"]
    num_errors = sum(row.get("error") is not None for row in rows)
    assert len(rows) // 10 < num_errors < len(rows)


def strictly(line: str) -> dict[str, Any]:
    """Parses JSON without the numbers that it does not have."""

    def refuse(name: str) -> None:
        msg = f"{name} is not JSON"
        raise ValueError(msg)

    return json.loads(line, parse_constant=refuse)


OPTIONS = ("--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed")
OPTION_VALUES = (*NUMBERS, "text", "", "inf", "-inf", "nan", "1_000", "0x10")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_any_value_is_served_or_refused_in_one_line(
    run, strategy, option: str, tmp_path: Path
) -> None:
    """A file that is missing is named only where the option's value is accepted."""
    missing = tmp_path / "missing.jsonl"
    for value in OPTION_VALUES:
        result = run(
            *("generate", "--strategy", strategy, "--prompts", missing),
            f"{option}={value}",
        )
        assert isinstance(result.exception, SystemExit), (value, result.exception)
        assert result.exit_code in (1, 2), value
        last = result.stderr.splitlines()[-1]
        assert last.lower().startswith("error: "), value
        is_accepted = "missing.jsonl" in last
        assert is_accepted == is_good(option, value), (value, last)


def is_good(option: str, value: str) -> bool:
    """Whether an option takes a value, in plain Python."""
    is_real = option in ("--temperature", "--top-p")
    try:
        number = float(value) if is_real else int(value)
    except ValueError:
        return False
    low, high = {
        "--max-new-tokens": (1, 2**31 - 1),
        "--temperature": (0, 3.4028234e38),
        "--top-k": (0, 2**31 - 1),
        "--top-p": (0, 1),
        "--seed": (-(2**63), 2**63 - 1),
    }[option]
    return low <= number <= high
