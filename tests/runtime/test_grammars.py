"""Texts under grammars: all that end are valid, whatever the model would rather write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import jsonschema
import pytest

from llmpq_jax.batch.answer import AnswerSplitter
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.grammars import SequenceMaker
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Completion, Grammar, Request, Sampling
from llmpq_jax.runtime.serving_loop import ServingLoop
from tests.runtime.test_serving_loop import Client
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingLoop]:
    folder = write_tiny_model(tmp_path_factory.mktemp("grammars") / "model")
    strategy = make_strategy(
        folder, [((0,), [16] * 4)], batch=8, decode=8, prompt_length=16, new_tokens=496
    )
    with Pipeline.load(strategy) as pipeline:
        serving = ServingLoop(pipeline, max_waiting=4096)
        serving.start()
        yield serving
        serving.close(timeout_s=60)
        assert serving.error is None


def _schema(random: Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose texts are short, so that a model that draws at random ends them."""
    kind = random.choice(
        ["integer", "boolean", "null", "enum", "string"]
        + ["object", "array"] * (depth < 2)
    )
    if kind == "integer":
        low = random.randint(-50, 50)
        return {
            "type": "integer",
            "minimum": low,
            "maximum": low + random.randint(0, 99),
        }
    if kind == "enum":
        return {"enum": random.sample(["a", "b c", 'd"', 1, None, True], 3)}
    if kind == "string":
        return {"type": "string", "maxLength": random.randint(0, 6)}
    if kind == "array":
        items = _schema(random, depth + 1)
        return {"type": "array", "items": items, "maxItems": random.randint(0, 3)}
    if kind == "object":
        names = random.sample(["x", "name", "long_name", "ä"], random.randint(1, 3))
        return {
            "type": "object",
            "properties": {name: _schema(random, depth + 1) for name in names},
            "required": names[: random.randint(0, len(names))],
            "additionalProperties": False,
        }
    return {"type": kind}


def _completions(loop: ServingLoop, grammars: list[Grammar]) -> list[Completion]:
    clients = [Client() for _ in grammars]
    sequences = [
        loop.submit(
            Request(
                token_ids=(5, 6, 7),
                max_new_tokens=496,
                sampling=Sampling(temperature=1.0, seed=number),
                grammar=grammar,
            ),
            client,
        )
        for number, (grammar, client) in enumerate(zip(grammars, clients, strict=True))
    ]
    assert all(client.done.wait(300) for client in clients)
    return [served.completion() for served in sequences]


def _texts(loop: ServingLoop, grammars: list[Grammar]) -> list[str]:
    completions = _completions(loop, grammars)
    assert {each.finish_reason for each in completions} <= {"stop", "eos"}
    return [each.text for each in completions]


@pytest.mark.parametrize(
    "num_schemas", [pytest.param(1000, marks=pytest.mark.full), 40]
)
def test_texts_under_json_schemas_are_valid(
    loop: ServingLoop, num_schemas: int
) -> None:
    random = Random(num_schemas)
    schemas = [_schema(random) for _ in range(num_schemas)]
    grammars = [
        Grammar(kind="json_schema", content=json.dumps(each)) for each in schemas
    ]
    for text, schema in zip(_texts(loop, grammars), schemas, strict=True):
        jsonschema.validate(json.loads(text), schema)


def _tool(random: Random, number: int) -> dict[str, Any]:
    """A function whose texts end soon, and may hold what ends a call."""
    texts = random.choice(
        [
            {"enum": ["</tool_call>", "a; b", "7"], "type": "string"},
            {"const": "a/b", "type": "string"},
            {"pattern": "^[a-c/]{1,3}$", "type": "string"},
            {"pattern": "b\\\\$", "maxLength": 5, "type": "string"},
            {"minLength": 2, "maxLength": 4, "type": "string"},
        ]
    )
    names = random.sample(["city", "days", "what_else"], random.randint(0, 3))
    properties = {
        name: texts if random.random() < 0.3 else _schema(random, 1) for name in names
    }
    parameters = {
        "type": "object",
        "properties": properties,
        "required": names[: random.randint(0, len(names))],
        "additionalProperties": False,
    }
    return {"name": f"function_{number}", "parameters": parameters}


@pytest.mark.parametrize("form", ["hermes", "llama3", "qwen3_coder"])
@pytest.mark.parametrize("num_tools", [pytest.param(60, marks=pytest.mark.full), 6])
def test_forced_calls_have_the_arguments_that_their_functions_take(
    loop: ServingLoop, form: Any, num_tools: int
) -> None:
    random = Random(num_tools)
    asked = [
        [_tool(random, number) for number in range(random.randint(1, 3))]
        for _ in range(num_tools)
    ]
    grammars = [
        Grammar(
            kind="calls",
            content=json.dumps(
                {"form": form, "tools": tools, "is_single": bool(number % 3)}
            ),
        )
        for number, tools in enumerate(asked)
    ]
    cut: set[int] = set()
    found = _completions(loop, grammars)
    for number, (completion, tools) in enumerate(zip(found, asked, strict=True)):
        text = completion.text
        if completion.finish_reason == "length":
            # One call ends soon; how many there are, a model that draws at random decides.
            assert number % 3 == 0
            cut.add(number)
            continue
        listed = [{"type": "function", "function": each} for each in tools]
        splitter = AnswerSplitter("", form, tools=listed)
        parts = list(splitter.add(text))
        rest, calls = splitter.end()
        assert calls, text
        assert not [part for _, part in (*parts, *rest) if part.strip()]
        schemas = {each["name"]: each["parameters"] for each in tools}
        for call in calls:
            jsonschema.validate(call.arguments, schemas[call.name])
    assert len(cut) < num_tools / 3


def test_other_grammars_are_followed_too(loop: ServingLoop) -> None:
    regex, choice, lark, free = _texts(
        loop,
        [
            Grammar(kind="regex", content="[ab]{3}-[0-9]{2}"),
            Grammar(kind="choice", content='["yes", "no \\"really\\""]'),
            Grammar(kind="lark", content='start: "a" b\nb: "x" | "y"'),
            Grammar(kind="json_schema", content='{"enum": ["once"]}'),
        ],
    )
    assert re.fullmatch("[ab]{3}-[0-9]{2}", regex)
    assert choice in ("yes", 'no "really"')
    assert lark in ("ax", "ay")
    assert free == '"once"'


def test_a_batch_follows_grammars_as_requests_at_any_time_do(loop: ServingLoop) -> None:
    grammar = Grammar(kind="regex", content="[a-f]{8}")
    request = Request(token_ids=(5, 6, 7), max_new_tokens=40, grammar=grammar)
    client = Client()
    served = loop.submit(request, client)
    assert client.done.wait(60)
    with Pipeline.load(loop.pipeline.strategy) as alone:
        (batched,) = alone.serve([request])
    assert batched.text == served.completion().text
    assert re.fullmatch("[a-f]{8}", batched.text)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("json_schema", '{"type": "strin"}'),
        ("json_schema", "[1, 2"),
        ("regex", "("),
        ("lark", "start: nothing"),
        ("choice", "[]"),
    ],
)
def test_what_is_no_grammar_is_refused(
    loop: ServingLoop, kind: Any, content: str
) -> None:
    pipeline = loop.pipeline
    maker = SequenceMaker(pipeline.tokenizer, pipeline.architecture.vocabulary_size)
    with pytest.raises(RequestError, match="cannot be compiled"):
        maker.constraint(Grammar(kind=kind, content=content))
