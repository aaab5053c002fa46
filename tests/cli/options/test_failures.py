"""What happens to a job whose machine fails, as typed."""

from __future__ import annotations

import itertools
import json
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from click.testing import Result

from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.record_files import read_strategy, write_cluster, write_strategy
from llmpq_jax.schema.solve_request import QualityLimits
from tests.cli.conftest import SIZES
from tests.cli.test_serve import running
from tests.support.ray_machines import Machines
from tests.support.tiny_models import make_strategy

NAMES = ("left", "right")
NUM_LINES = 9
RAY = ("--engine", "ray")


@pytest.fixture(scope="module")
def two_machines(model: Path) -> Path:
    """Two machines, each of which holds the model with ease."""
    path = model.parent / "two-machines.toml"
    device = Device(name="cpu:0", kind="cpu", platform="cpu", memory_bytes=64 << 20)
    nodes = tuple(Node(name=name, devices=(device,)) for name in NAMES)
    link = Link(between=NAMES, bandwidth_bytes_per_s=1e8)
    write_cluster(path, Cluster(name="two machines", nodes=nodes, links=(link,)))
    return path


@pytest.fixture
def solve(
    run: Callable[..., Result],
    model: Path,
    two_machines: Path,
    measurements: Path,
    tmp_path: Path,
) -> Callable[..., Path]:
    """Solves for both machines, all at 16 bits."""

    def solve_with(*words: object) -> Path:
        path = tmp_path / "strategy.toml"
        sources = ("--model", model, "--cluster", two_machines)
        sources += ("--measurements", measurements, "--omega-budget", 0)
        result = run("solve", *sources, *SIZES, *words, "--out", path)
        assert result.exit_code == 0, result.output
        return path

    return solve_with


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [
        {
            "custom_id": f"a{number}",
            "prompt": "def f(x)"[: 1 + number % 8],
            "temperature": 0.8 * (number % 2),
            "seed": number,
        }
        for number in range(NUM_LINES)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def left(machines: Machines) -> None:
    """Starts the machine that stays."""
    machines.start("left")


@pytest.fixture
def kill_right(
    machines: Machines, left: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Starts the other one; returns what has it go when some requests are done."""
    from llmpq_jax.runtime.engines.ray.ray_engine import RayEngine

    machines.start("right")
    submit = RayEngine.submit
    num_sent = 0

    def sabotaged(engine: RayEngine, message: Any) -> None:
        nonlocal num_sent
        num_sent += message.phase == "decode"
        if num_sent == 4:
            num_sent += 1
            workers = engine.workers
            actor = workers.actors[workers.nodes.index("right")]
            heartbeat: Any = ray.get(actor.heartbeat.remote())
            machines.kill("right")
            # Its processes outlive it for a moment.
            psutil.Process(heartbeat.pid).wait(60)
        submit(engine, message)

    return lambda: monkeypatch.setattr(RayEngine, "submit", sabotaged)


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    "starts_again", [False, pytest.param(True, marks=pytest.mark.full)]
)
def test_a_job_goes_on_without_a_machine_that_is_gone(
    run, fails, solve, model, prompts, machines, kill_right, tmp_path, starts_again
):
    whole = tmp_path / "whole.toml"
    write_strategy(whole, make_strategy(model, [((0,), [16] * 4)], batch=2))
    words = ("--prompts", prompts, "--ignore-eos")
    expected = tmp_path / "expected.jsonl"
    alone = run("generate", "--strategy", whole, *words, "--out", expected)
    assert alone.exit_code == 0, alone.output

    strategy = solve("--use", "left/cpu:0", "--use", "right/cpu:0")
    out = tmp_path / "out.jsonl"
    kill_right()
    words += (*RAY, "--address", machines.address, "--out", out, "--restart-timeout", 6)
    resolves: tuple[str, ...] = ("--on-loss", "resolve")
    if starts_again:
        resolves += ("--restart-unfinished",)
    result = run("generate", "--strategy", strategy, *words, *resolves)
    assert result.exit_code == 0, result.output
    assert "solving again without it" in result.stderr
    rows = rows_of(out)
    texts = {name: row["text"] for name, row in rows.items()}
    assert texts == {name: row["text"] for name, row in rows_of(expected).items()}

    job = tomllib.loads((tmp_path / "out.jsonl.manifest.toml").read_text())
    first, second = (each.removeprefix("sha256:")[:12] for each in job["strategies"])
    plans = [tuple(row["plans"]) for row in rows.values()]
    # Of two places at a time, both were begun when it went.
    goes_on = set() if starts_again else {(first, second)}
    assert set(plans) == {(first,), (second,), *goes_on}
    new = tmp_path / f"out.jsonl.plan-{second}.toml"
    plan = read_strategy(new)
    assert [stage.device for stage in plan.stages] == ["left/cpu:0"]
    assert plan.request is not None
    assert plan.request.choices.leave_idle == ("right/cpu:0",)
    assert plan.request.quality == QualityLimits(omega_budget=0.0)

    # What the manifest lists may go on with the run, and nothing else.
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:-2]))
    assert run("generate", "--strategy", new, *words, "--resume").exit_code == 0
    assert rows_of(out).keys() == rows.keys()
    assert "which did not serve the run: expected " in fails(
        "generate", "--strategy", whole, *words, "--resume"
    )


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_machine_that_is_not_there_at_the_start_is_solved_without(
    run, solve, prompts, machines, left, tmp_path
):
    strategy = solve("--use", "left/cpu:0", "--use", "right/cpu:0")
    out = tmp_path / "out.jsonl"
    words = ("--prompts", prompts, *RAY, "--address", machines.address, "--out", out)
    result = run("generate", "--strategy", strategy, *words, "--on-loss", "resolve")
    assert result.exit_code == 0, result.output
    assert "needs the nodes right" in result.stderr
    assert "solving again without it" in result.stderr
    plans = {tuple(row["plans"]) for row in rows_of(out).values()}
    (new,) = tmp_path.glob("out.jsonl.plan-*.toml")
    assert plans == {(new.stem.removeprefix("out.jsonl.plan-"),)}
    assert [stage.device for stage in read_strategy(new).stages] == ["left/cpu:0"]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.xdist_group("ray")
def test_a_server_goes_on_without_a_machine_that_is_gone(
    run, solve, model, prompts, machines, left, tmp_path
):
    whole = tmp_path / "whole.toml"
    write_strategy(whole, make_strategy(model, [((0,), [16] * 4)], batch=2))
    expected = tmp_path / "expected.jsonl"
    words = ("--prompts", prompts, "--ignore-eos", "--out", expected)
    assert run("generate", "--strategy", whole, *words).exit_code == 0
    texts = {name: row["text"] for name, row in rows_of(expected).items()}
    bodies = [json.loads(line) for line in prompts.read_text().splitlines()]

    machines.start("right")
    strategy = solve("--use", "left/cpu:0", "--use", "right/cpu:0")
    words = (*RAY, "--address", machines.address, "--restart-timeout", 6)
    with running(strategy, *words, "--on-loss", "resolve") as server:
        url = server.address("serving") + "/v1/completions"
        outcomes: list[tuple[str, int, str]] = []
        is_over = threading.Event()

        def ask_again_and_again(own: list[dict[str, Any]]) -> None:
            with httpx.Client(timeout=120) as http:
                for body in itertools.cycle(own):
                    if is_over.is_set():
                        return
                    asked = {**body, "ignore_eos": True, "max_tokens": 8}
                    answer = http.post(url, json=asked)
                    is_served = answer.status_code == 200
                    text = answer.json()["choices"][0]["text"] if is_served else ""
                    outcomes.append((body["custom_id"], answer.status_code, text))
                    time.sleep(0.2 * (not is_served))

        def num_served() -> int:
            return sum(status == 200 for _, status, _ in list(outcomes))

        with ThreadPoolExecutor(3) as clients:
            asking = [
                clients.submit(ask_again_and_again, bodies[number::3])
                for number in range(3)
            ]
            try:
                wait_until(lambda: num_served() > 12)
                machines.kill("right")
                wait_until(lambda: any("continuing with" in x for x in server.lines))
                before = num_served()
                wait_until(lambda: num_served() > before + 12)
            finally:
                is_over.set()
        for each in asking:
            each.result()
    # Newcomers were refused for a while, and nothing that was accepted was lost.
    assert {status for _, status, _ in outcomes} <= {200, 503}
    assert all(text == texts[name] for name, status, text in outcomes if status == 200)
    assert any("solving again without it" in line for line in server.lines)
    (new,) = tmp_path.glob("strategy.toml.plan-*.toml")
    assert [stage.device for stage in read_strategy(new).stages] == ["left/cpu:0"]


def wait_until(is_so: Callable[[], bool], seconds: float = 180) -> None:
    deadline_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_what_is_done_is_kept_where_nothing_fits_on_what_is_left(
    fails, solve, prompts, machines, kill_right, tmp_path
):
    strategy = solve("--pin-layers", "2:4=right/cpu:0", "--use", "left/cpu:0")
    out = tmp_path / "out.jsonl"
    kill_right()
    words = ("--prompts", prompts, "--ignore-eos", *RAY, "--restart-timeout", 6)
    words += ("--address", machines.address, "--out", out, "--on-loss", "resolve")
    line = fails("generate", "--strategy", strategy, *words)
    assert line.startswith("no plan is left without right/cpu:0: pinned layers 2:4 on ")
    assert line.endswith("then run this command again (`generate` with --resume)")
    assert 0 < len(rows_of(out)) < NUM_LINES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on-loss", "stop"), "--on-loss stop is for --engine ray"),
        ((*RAY, "--on-loss", "resolve"), "next to the results: expected --out"),
        ((*RAY, "--restart-unfinished"), "--restart-unfinished is for --on-loss"),
        ((*RAY, "--cluster", "a.toml"), "--cluster is for --on-loss resolve"),
    ],
)
def test_options_that_ask_for_nothing_are_refused(run, strategy, words, message):
    result = run("generate", "--strategy", strategy, "--prompt", "a", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_strategy_of_unknown_origin_needs_its_sources_named(
    fails, strategy, prompts, tmp_path
):
    words = ("--prompts", prompts, "--out", tmp_path / "out.jsonl", *RAY)
    line = fails("generate", "--strategy", strategy, *words, "--on-loss", "resolve")
    assert (
        "has no [request], which says what it was solved with: give --cluster" in line
    )


def test_sources_that_have_changed_since_are_refused_before_the_job_begins(
    fails, solve, measurements, prompts, tmp_path
):
    copy = tmp_path / "measurements.toml"
    copy.write_bytes(measurements.read_bytes())
    strategy = solve("--measurements", copy)
    words = ("--prompts", prompts, "--out", tmp_path / "out.jsonl", *RAY)
    words = ("generate", "--strategy", strategy, *words, "--on-loss", "resolve")
    copy.write_text(copy.read_text() + "# edited\n")
    line = fails(*words)
    assert "are not those that the strategy was solved with: expected them un" in line
    copy.unlink()
    assert "which does not exist: name the file with --measurements" in fails(*words)
