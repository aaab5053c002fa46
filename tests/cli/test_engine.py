"""Where stages run, as typed."""

from __future__ import annotations

import json
import sys

import pytest


@pytest.mark.parametrize("option", ["--address", "--lost-after", "--gone-after"])
def test_options_of_ray_are_for_ray(run, strategy, option):
    result = run("generate", "--strategy", strategy, "--prompt", "a", option, "5")
    assert result.exit_code == 2
    assert f"{option} is for --engine ray: expected both or neither" in result.stderr


def test_ray_that_is_not_installed_is_told_how_to_be(run, strategy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in list(sys.modules):
        if name.startswith("llmpq_jax.runtime.engines.ray_"):
            monkeypatch.delitem(sys.modules, name)
    result = run("generate", "--strategy", strategy, "--prompt", "a", "--engine", "ray")
    assert result.exit_code == 2
    assert "pip install 'llmpq-jax[ray]'" in result.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_gives_the_results_of_the_local_engine(run, strategy, machines, tmp_path):
    words = ["generate", "--strategy", strategy, "--json", "--ignore-eos"]
    for text in ("def f", "import os", "x = 1"):
        words += ["--prompt", text]
    results = {}
    for engine in ([], ["--engine", "ray", "--address", machines.address]):
        result = run(*words, *engine)
        assert result.exit_code == 0, result.output
        results[bool(engine)] = json.loads(result.stdout)["results"]
    assert results[True] == results[False]
