"""Workers and machines that are lost, each at its worst moment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import pytest
import ray

from llmpq_jax.errors import WorkerFailedError
from llmpq_jax.runtime import Completion, Pipeline
from llmpq_jax.runtime.engines.engine import DeviceFailedError, StartEngine
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.message import Message
from tests.ray_machines import Machines, on_nodes, set_worker_up, some_requests

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

REQUESTS = some_requests(6, new_tokens=16)


@pytest.fixture(scope="module")
def expected(two_stages: Strategy) -> list[Completion]:
    """What comes of an undisturbed run."""
    with Pipeline.load(two_stages) as local:
        return list(local.serve(REQUESTS))


@pytest.fixture(
    scope="module",
    params=[
        "sockets",
        pytest.param("calls", marks=pytest.mark.full),
        pytest.param("transfer", marks=pytest.mark.full),
    ],
)
def pipeline(
    request: pytest.FixtureRequest,
    two_stages: Strategy,
    start: Callable[..., StartEngine],
) -> Iterator[Pipeline]:
    apart = on_nodes(two_stages, "node0", "node1")
    chosen = start(heartbeat_timeout_s=3, transport=request.param)
    with Pipeline.load(apart, start=chosen) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def spare(two_stages: Strategy, machines: Machines) -> Strategy:
    """The plan on two machines that serve no other pipeline here."""
    for name in ("attic", "cellar"):
        machines.start(name)
    return on_nodes(two_stages, "cellar", "attic")


def engine_of(pipeline: Pipeline) -> Any:
    return pipeline._engine


def before_first(
    pipeline: Pipeline,
    phase: str,
    strike: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strikes once, right before the first message of a phase is sent."""
    engine = engine_of(pipeline)
    submit = engine.submit
    blows = [strike]

    def sabotaged(message: Message) -> None:
        if message.phase == phase and blows:
            blows.pop()()
        submit(message)

    monkeypatch.setattr(engine, "submit", sabotaged)


def process_of(pipeline: Pipeline, stage: int) -> int:
    """Returns the process that a stage runs in now."""
    pulse: Any = ray.get(engine_of(pipeline)._workers.actors[stage].pulse.remote())
    return pulse.pid


@pytest.mark.parametrize(
    ("phase", "stage", "number"),
    [
        pytest.param("prefill", 1, signal.SIGKILL, marks=pytest.mark.full),
        ("decode", 0, signal.SIGKILL),
        pytest.param("decode", 1, signal.SIGSTOP, marks=pytest.mark.full),
    ],
)
def test_a_worker_that_is_lost_costs_no_token(
    pipeline, expected, monkeypatch, phase, stage, number
):
    workers = engine_of(pipeline)._workers
    process = process_of(pipeline, stage)
    before_first(pipeline, phase, lambda: os.kill(process, number), monkeypatch)
    epoch = workers.epoch
    assert list(pipeline.serve(REQUESTS)) == expected
    assert workers.epoch > epoch
    assert pipeline.batches[-1].num_new_tokens == sum(
        len(completion.token_ids) for completion in expected
    )


def test_a_worker_that_is_killed_while_nobody_asks_is_had_back(pipeline, expected):
    os.kill(process_of(pipeline, 0), signal.SIGKILL)
    assert list(pipeline.serve(REQUESTS)) == expected


def test_a_connection_that_breaks_costs_no_token(pipeline, expected, monkeypatch):
    workers = engine_of(pipeline)._workers
    is_connected = workers._carrier.name != "calls"

    def cut(actor: Any) -> int:
        ways = getattr(actor._terminal, "_ways", [])
        for way in ways:
            way.close()
        return len(ways)

    def strike() -> None:
        num_cut: Any = ray.get(workers.actors[0].__ray_call__.remote(cut))
        assert num_cut == 2 * is_connected

    before_first(pipeline, "decode", strike, monkeypatch)
    epoch = workers.epoch
    assert list(pipeline.serve(REQUESTS)) == expected
    assert workers.epoch == epoch + is_connected


def test_stages_listen_on_loopback_alone(pipeline):
    workers = engine_of(pipeline)._workers
    for _, address in workers.ask_all("address"):
        if workers._carrier.name != "calls":
            assert address[0] == "127.0.0.1"


def test_a_process_that_ends_is_missed_within_a_second(pipeline, expected):
    workers = engine_of(pipeline)._workers
    os.kill(process_of(pipeline, 1), signal.SIGKILL)
    began_s = time.perf_counter()
    while not workers._watch.lost and time.perf_counter() - began_s < 10:
        time.sleep(0.01)
    assert time.perf_counter() - began_s < 1
    assert list(pipeline.serve(REQUESTS)) == expected


def test_a_worker_that_is_killed_while_it_loads_loads_again(
    spare, start, expected, tmp_path
):
    (tmp_path / "told").mkdir()
    killed: list[int] = []

    def kill_first() -> None:
        while not killed:
            time.sleep(0.01)
            for path in (tmp_path / "told").iterdir():
                os.kill(int(path.name), signal.SIGKILL)
                killed.append(int(path.name))
                break

    killer = threading.Thread(target=kill_first, daemon=True)
    killer.start()
    heard: list[int] = []
    set_up = partial(
        set_worker_up, str(tmp_path / "compiled"), told=str(tmp_path / "told")
    )
    with Pipeline.load(
        spare, start=start(set_up=set_up), on_layer=lambda: heard.append(1)
    ) as loaded:
        killer.join()
        assert len(list((tmp_path / "told").iterdir())) == 3
        assert len(heard) == 4
        assert list(loaded.serve(REQUESTS)) == expected


def test_a_run_that_is_to_stop_at_a_loss_does(spare, start, expected, monkeypatch):
    with Pipeline.load(spare, start=start(restarts=False)) as loaded:
        process = process_of(loaded, 0)
        before_first(
            loaded, "decode", lambda: os.kill(process, signal.SIGKILL), monkeypatch
        )
        with pytest.raises(
            WorkerFailedError,
            match=r"^the worker of stage 0 on cellar/cpu:0 \(process \d+\) has ended: results so far are whole",
        ):
            list(loaded.serve(REQUESTS))


def test_a_device_that_has_left_its_machine_is_gone(
    spare, start, expected, monkeypatch
):
    with Pipeline.load(spare, start=start()) as loaded:
        workers = engine_of(loaded)._workers
        process = process_of(loaded, 1)

        def strike() -> None:
            # What is loaded next asks for a device that is not there, as if it had left.
            first, second = spare.stages
            stages = (first, replace(second, device="attic/tpu:0"))
            monkeypatch.setattr(workers, "_strategy", replace(spare, stages=stages))
            os.kill(process, signal.SIGKILL)

        before_first(loaded, "decode", strike, monkeypatch)
        with pytest.raises(
            DeviceFailedError,
            match=r"stage 1 on attic/tpu:0: .* JAX finds no .* results",
        ) as told:
            list(loaded.serve(REQUESTS))
    assert told.value.devices == ("attic/tpu:0",)
    assert {"attic", "cellar"} <= set(told.value.nodes)


def test_a_machine_that_comes_back_in_time_costs_no_token(
    spare: Strategy,
    start: Callable[..., StartEngine],
    machines: Machines,
    expected: list[Completion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Pipeline.load(spare, start=start(restart_timeout_s=60)) as loaded:

        def strike() -> None:
            machines.kill("attic")
            machines.start("attic")

        before_first(loaded, "decode", strike, monkeypatch)
        assert list(loaded.serve(REQUESTS)) == expected


def test_a_machine_that_is_gone_ends_the_run_and_keeps_what_is_done(
    spare: Strategy,
    start: Callable[..., StartEngine],
    machines: Machines,
    expected: list[Completion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Completion] = []
    with Pipeline.load(spare, start=start(restart_timeout_s=6)) as loaded:
        assert list(loaded.serve(REQUESTS[:1])) == expected[:1]
        process = process_of(loaded, 1)

        def strike() -> None:
            machines.kill("attic")
            # Its processes outlive it for a moment.
            psutil.Process(process).wait(60)

        before_first(loaded, "decode", strike, monkeypatch)
        with pytest.raises(
            DeviceFailedError,
            match=r"stage 1 on attic/cpu:1 \(process \d+\) has .*, and its node attic has left the cluster",
        ) as told:
            done += loaded.serve(REQUESTS)
    assert "\n" not in str(told.value)
    assert "attic" not in told.value.nodes
    assert {"cellar", "node0", "node1"} <= set(told.value.nodes)
    assert done == expected[: len(done)]
