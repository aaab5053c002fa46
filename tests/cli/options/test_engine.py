"""Where stages run, as typed."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from llmpq_jax.cli.options.engine import EngineOptions
from llmpq_jax.runtime.engines.transport import TransportName


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--address", "5"),
        ("--heartbeat-timeout", "5"),
        ("--restart-timeout", "5"),
        ("--transport", "calls"),
    ],
)
@pytest.mark.parametrize(
    "command", [("generate", "--prompt", "a"), ("evaluate", "--text", "a")]
)
def test_options_of_ray_are_for_ray(run, strategy, command, option, value):
    result = run(*command, "--strategy", strategy, option, value)
    assert result.exit_code == 2
    assert f"{option} is for --engine ray: expected both or neither" in result.stderr


def test_check_takes_what_has_an_effect_on_it(run, strategy):
    words = ("check", "--strategy", strategy)
    result = run(*words, "--address", "local")
    assert "--address is for --engine ray: expected both or neither" in result.stderr
    result = run(*words, "--weights-cache", "none")
    assert "--weights-cache is for --load: expected both or neither" in result.stderr
    for option in ("--transport", "--restart-timeout"):
        assert run(*words, option, "5").exit_code == 2


def test_the_error_without_ray_says_how_to_install_it(run, strategy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in list(sys.modules):
        if name.startswith("llmpq_jax.runtime.engines.ray."):
            monkeypatch.delitem(sys.modules, name)
    result = run("generate", "--strategy", strategy, "--prompt", "a", "--engine", "ray")
    assert result.exit_code == 2
    assert "pip install 'llmpq-jax[ray]'" in result.stderr


@pytest.mark.parametrize("transport", ["sockets", "transfer"])
def test_nothing_travels_in_the_clear_where_ray_is_to_encrypt(
    run, strategy, monkeypatch, transport
):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    words = ["--engine", "ray", "--transport", transport]
    result = run("generate", "--strategy", strategy, "--prompt", "a", *words)
    assert result.exit_code == 2
    assert f"--transport {transport} does not encrypt" in result.stderr


def test_ray_is_to_encrypt_what_it_carries(monkeypatch):
    def chosen(typed: TransportName | None = None) -> TransportName:
        options = EngineOptions(engine="ray", transport=typed)
        start: Any = options.starter(restarts=True)
        return start.keywords["transport"]

    assert chosen() == "sockets"
    assert chosen("transfer") == "transfer"
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert chosen() == "calls"
    assert chosen("calls") == "calls"


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_gives_the_results_of_the_local_engine(run, strategy, machines, tmp_path):
    words = ["generate", "--strategy", strategy, "--json", "--ignore-eos"]
    for text in ("def f", "import os", "x = 1"):
        words += ["--prompt", text]
    kept = tmp_path / "kept"
    of_ray = ["--engine", "ray", "--address", machines.address, "--weights-cache", kept]
    results = []
    written: dict[str, int] = {}
    # The second run under Ray reads what the workers of the first have kept.
    for engine in (["--weights-cache", "none"], of_ray, of_ray):
        result = run(*words, *engine)
        assert result.exit_code == 0, result.output
        results.append(json.loads(result.stdout)["results"])
        inodes = {path.name: path.stat().st_ino for path in kept.glob("*")}
        if len(results) == 2:
            written = inodes
    assert results[1:] == results[:1] * 2
    assert len(written) == 3
    assert inodes == written
