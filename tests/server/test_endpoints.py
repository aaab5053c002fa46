"""The server's endpoints as programs without OpenAI's client use them."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest

from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.server import connections
from llmpq_jax.server.settings import ServerSettings
from llmpq_jax.server.state import ServerState
from tests.server.conftest import NAME, running

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def test_prompts_are_scored_as_lm_eval_reads_them(
    http: httpx.Client, pipeline: Pipeline
) -> None:
    """Of the arrays it drops the first entries and the last one."""
    token_ids = list(pipeline.tokenizer.encode("this is a text of some length"))
    body = {
        "model": NAME,
        "prompt": [token_ids],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    (choice,) = http.post(COMPLETIONS, json=body).json()["choices"]
    found = choice["logprobs"]
    assert len(found["tokens"]) == len(token_ids) + 1
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    with Pipeline.load(pipeline.strategy) as alone:
        logits = alone.score([token_ids])[0].astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    for position, token in enumerate(token_ids[1:], start=1):
        own, likeliest = (
            found["token_logprobs"][position],
            found["top_logprobs"][position],
        )
        expected = logprobs[position - 1]
        assert own == pytest.approx(expected[token], abs=1e-4)
        assert max(likeliest.values()) == pytest.approx(expected.max(), abs=1e-4)
        assert own in likeliest.values()
    assert choice["text"].startswith(pipeline.tokenizer.decode(token_ids))
    scored = http.post(COMPLETIONS, json=body | {"max_tokens": 0}).json()
    assert scored["choices"][0]["logprobs"]["tokens"] == found["tokens"][:-1]
    assert scored["usage"]["completion_tokens"] == 0


def test_texts_become_tokens_and_tokens_texts(
    http: httpx.Client, pipeline: Pipeline
) -> None:
    found = http.post("/tokenize", json={"model": NAME, "prompt": "some text"}).json()
    assert tuple(found["tokens"]) == pipeline.tokenizer.encode("some text")
    assert found["count"] == len(found["tokens"])
    text = http.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert "some text" in text["prompt"]
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<end>"
    assert "<answer>" in info["chat_template"]
    wrong = http.post("/detokenize", json={"tokens": [10**9]})
    assert wrong.status_code == 400


# As these programs send them, with what they set besides.
BODIES = {
    "vllm bench serve": (
        CHAT,
        {
            "model": NAME,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "temperature": 0.0,
            "max_completion_tokens": 8,
            "stream": True,
            "stream_options": {"include_usage": True},
            "repetition_penalty": 1.0,
            "logprobs": None,
            "ignore_eos": True,
        },
    ),
    "open webui": (
        CHAT,
        {
            "model": NAME,
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "metadata": {"chat_id": "1"},
            "max_tokens": 8,
        },
    ),
    "open webui's titles": (
        CHAT,
        {
            "model": NAME,
            "messages": [{"role": "user", "content": "a title, please"}],
            "stream": False,
            "max_completion_tokens": 8,
        },
    ),
    "aider": (
        CHAT,
        {
            "model": NAME,
            "messages": [
                {"role": "system", "content": "You write code."},
                {"role": "user", "content": "a loop"},
                {"role": "assistant", "content": "Ok.", "provider_specific_fields": {}},
                {"role": "user", "content": "shorter", "cache_control": {"type": "x"}},
            ],
            "temperature": 0,
            "stream": True,
            "max_tokens": 8,
        },
    ),
    "lm-eval": (
        COMPLETIONS,
        {
            "model": NAME,
            "prompt": [[5, 6, 7], [8, 9]],
            "max_tokens": 8,
            "temperature": 0,
            "seed": 1234,
            "stop": ["\n\n", "Q:"],
        },
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_of_known_clients_are_served(http: httpx.Client, name: str) -> None:
    path, body = BODIES[name]
    answer = http.post(path, json=body, headers={"x-request-id": "1"})
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        assert answer.json()["choices"][0]["finish_reason"] in ("length", "stop")
        return
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line for line in answer.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [choice["delta"] for each in chunks for choice in each["choices"]]
    assert all(value is not None for delta in deltas for value in delta.values())
    if "stream_options" in body:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] >= 1


def test_an_unknown_field_is_ignored_and_logged_once(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"model": NAME, "prompt": "a", "max_tokens": 1, "field_of_tomorrow": [1]}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert http.post(COMPLETIONS, json=body).status_code == 200
    logged = [each for each in caplog.messages if "field_of_tomorrow" in each]
    assert len(logged) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"prompt": ""}', 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"prompt": "\xff"}', 400),
        (b'{"prompt": "a", "max_tokens": 1e400}', 400),
        (b'{"prompt": "a", "temperature": NaN}', 400),
        (b'{"prompt": "a", "logit_bias": {"x": 1}}', 400),
        (b'{"prompt": "a", "logit_bias": {"999999": 1}}', 400),
        (b'{"prompt": "a", "n": 129}', 400),
        (b'{"prompt": ["a", "b"], "n": 65}', 400),
        (b'{"prompt": ' + b"[" * 3 + b"]" * 3 + b"}", 400),
        (b'{"prompt": "' + b"a" * (17 << 20) + b'"}', 413),
    ],
)
def test_a_bad_body_is_refused(http: httpx.Client, body: bytes, status: int) -> None:
    answer = http.post(COMPLETIONS, content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert len(error["message"]) < 1000
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", COMPLETIONS, 405), ("GET", "/v1/models/x", 404)],
)
def test_a_wrong_path_is_refused_as_errors_are(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_server_that_loads_or_ends_says_so() -> None:
    state = ServerState(ServerSettings(model_name=NAME))
    with running(state) as address, httpx.Client(base_url=address) as http:
        for path in ("/health", "/v1/models"):
            answer = http.get(path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
        assert http.get("/metrics").status_code == 200
        assert http.get("/version").status_code == 200


def test_a_key_is_asked_for(serving: ServingLoop) -> None:
    state = ServerState(ServerSettings(model_name=NAME, api_key="sesame"))
    state.serve(serving)
    with running(state) as address, httpx.Client(base_url=address) as http:
        assert http.get("/health").status_code == 200
        for headers in ({}, {"authorization": "Bearer other"}):
            answer = http.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        known = {"authorization": "Bearer sesame"}
        assert http.get("/v1/models", headers=known).status_code == 200


def test_a_client_that_goes_away_frees_its_slot(
    http: httpx.Client, serving: ServingLoop
) -> None:
    body = {"model": NAME, "prompt": "a", "max_tokens": 200, "ignore_eos": True, "n": 4}
    for streams in (True, False):
        asked: dict[str, Any] = {"json": body | {"stream": streams}}
        if streams:
            with http.stream("POST", COMPLETIONS, **asked) as answer:
                next(answer.iter_lines())
        else:
            with suppress(httpx.ReadTimeout):
                http.post(COMPLETIONS, **asked, timeout=0.05)
        _wait_until(lambda: serving.num_unfinished == 0)
    _wait_until(lambda: serving.counters.num_running == 0)


def test_a_client_that_says_nothing_is_disconnected(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_HEAD_TIMEOUT_S", 0.3)
    port = int(address.rpartition(":")[2])
    for said in (b"", b"POST /v1/completions HTTP/1.1\r\nHost:"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            silent.sendall(said)
            assert silent.recv(1) == b""


def test_metrics_count_what_happened(http: httpx.Client) -> None:
    def read() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {
            name.replace(f'model_name="{NAME}"', ""): float(v) for name, _, v in pairs
        }

    before = read()
    body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 9, "ignore_eos": True}
    assert http.post(COMPLETIONS, json=body).status_code == 200
    after = read()
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained["llmpq:prompt_tokens_total{}"] == 3
    assert gained["llmpq:generation_tokens_total{}"] == 9
    assert gained['llmpq:request_success_total{finished_reason="length",}'] == 1
    assert gained["llmpq:time_to_first_token_seconds_count{}"] == 1
    assert gained["llmpq:inter_token_latency_seconds_count{}"] == 8
    assert gained["llmpq:e2e_request_latency_seconds_count{}"] == 1
    assert after["llmpq:num_requests_running{}"] == 0
    assert after["llmpq:num_requests_waiting{}"] == 0


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
