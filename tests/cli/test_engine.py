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
