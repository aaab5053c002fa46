"""The page at `/`: what it is made of, and what it reads."""

from __future__ import annotations

import re

import httpx
import pytest

from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.server.settings import ServerSettings
from llmpq_jax.server.state import ServerState
from tests.server.conftest import NAME, running


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")],
)
def test_the_page_is_served_and_loads_nothing_from_elsewhere(
    http: httpx.Client, path: str, kind: str
) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert "://" not in answer.text


def test_the_script_and_the_page_name_the_same_elements(http: httpx.Client) -> None:
    page, script = http.get("/").text, http.get("/page.js").text
    named = set(re.findall(r'element\("([^"]+)"\)', script))
    assert named
    assert named <= set(re.findall(r'id="([^"]+)"', page))


def test_the_page_reads_what_the_stages_do(http: httpx.Client) -> None:
    body = {"prompt": "abc", "max_tokens": 30, "ignore_eos": True, "temperature": 0}
    for _ in range(8):
        assert http.post("/v1/completions", json=body).status_code == 200
    found = http.get("/stages").json()
    assert found["model"] == NAME
    assert found["slots"] == 4
    assert (found["running"], found["waiting"]) == (0, 0)
    assert found["tokens_per_s"] > 0
    (stage,) = found["stages"]
    assert stage["devices"] == ["node0/cpu:0"]
    assert stage["layers"] == [0, 4]
    assert 0 <= stage["busy_share"] <= 1
    script = http.get("/page.js").text
    assert set(re.findall(r"stage\.(\w+)", script)) <= set(stage)
    assert set(re.findall(r"found\.(\w+)", script)) <= set(found)
    metrics = http.get("/metrics").text
    assert re.search(
        r"^llmpq:stage_busy_share\{.*stage=\"0\"\} ", metrics, re.MULTILINE
    )


def test_the_page_needs_no_key_but_what_it_reads_does(serving: ServingLoop) -> None:
    state = ServerState(ServerSettings(model_name=NAME, api_key="sesame"))
    state.serve(serving)
    with running(state) as address, httpx.Client(base_url=address) as client:
        assert client.get("/").status_code == 200
        assert client.get("/stages").status_code == 401
        known = {"authorization": "Bearer sesame"}
        assert client.get("/stages", headers=known).status_code == 200
