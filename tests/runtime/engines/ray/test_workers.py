"""Workers and machines that fail, each at its worst moment."""

from __future__ import annotations

import gc
import os
import re
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
from ray._private import worker as ray_driver

from llmpq_jax.errors import WorkerFailedError
from llmpq_jax.runtime import Completion, Pipeline
from llmpq_jax.runtime.engines.engine import DeviceFailedError, StartEngine
from llmpq_jax.runtime.engines.ray.ray_engine import RayEngine
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.message import Message
from tests.support.ray_machines import Machines, on_nodes, set_worker_up, some_requests

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

REQUESTS = some_requests(6, new_tokens=16)


@pytest.fixture(scope="module")
def expected(two_stages: Strategy) -> list[Completion]:
    """Completions of an undisturbed run."""
    with Pipeline.load(two_stages) as local:
        return list(local.serve(REQUESTS))


@pytest.fixture(scope="module")
def logged() -> list[str]:
    """Lines that the engine of `pipeline` has said so far."""
    return []


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
    logged: list[str],
) -> Iterator[Pipeline]:
    apart = on_nodes(two_stages, "node0", "node1")
    chosen = start(heartbeat_timeout_s=3, transport=request.param, log=logged.append)
    with Pipeline.load(apart, start=chosen) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def spare(two_stages: Strategy, machines: Machines) -> Strategy:
    """The plan on two machines that serve no other pipeline here."""
    for name in ("attic", "cellar"):
        machines.start(name)
    return on_nodes(two_stages, "cellar", "attic")


def engine_of(pipeline: Pipeline) -> RayEngine:
    assert isinstance(pipeline.engine, RayEngine)
    return pipeline.engine


def before_first(
    pipeline: Pipeline,
    phase: str,
    break_it: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Breaks something once, right before the first message of a phase is sent."""
    engine = engine_of(pipeline)
    submit = engine.submit
    not_broken = [break_it]

    def sabotaged(message: Message) -> None:
        if message.phase == phase and not_broken:
            not_broken.pop()()
        submit(message)

    monkeypatch.setattr(engine, "submit", sabotaged)


def process_of(pipeline: Pipeline, stage: int) -> int:
    """Returns the process that a stage runs in now."""
    actor = engine_of(pipeline).workers.actors[stage]
    heartbeat: Any = ray.get(actor.heartbeat.remote())
    return heartbeat.pid


@pytest.mark.parametrize(
    ("phase", "stage", "number"),
    [
        pytest.param("prefill", 1, signal.SIGKILL, marks=pytest.mark.full),
        ("decode", 0, signal.SIGKILL),
        pytest.param("decode", 1, signal.SIGSTOP, marks=pytest.mark.full),
    ],
)
def test_a_worker_that_fails_costs_no_token(
    pipeline, expected, monkeypatch, logged, phase, stage, number
):
    tracebacks: list[Exception] = []
    monkeypatch.setattr(ray_driver, "_unhandled_error_handler", tracebacks.append)
    logged.clear()
    workers = engine_of(pipeline).workers
    process = process_of(pipeline, stage)
    before_first(pipeline, phase, lambda: os.kill(process, number), monkeypatch)
    epoch = workers.epoch
    assert list(pipeline.serve(REQUESTS)) == expected
    assert workers.epoch > epoch
    assert pipeline.batches[-1].num_new_tokens == sum(
        len(completion.token_ids) for completion in expected
    )
    failure, recovery = logged
    how = "has ended" if number == signal.SIGKILL else "has not answered for 3 s"
    worker = f"the worker of stage {stage} on node{stage}/cpu:{stage}"
    assert failure.startswith(f"{worker} (process {process}) {how}: Ray starts another")
    assert recovery.startswith("all stages run again after ")
    gc.collect()
    assert tracebacks == []


def test_a_worker_that_is_killed_between_runs_is_recovered(pipeline, expected):
    os.kill(process_of(pipeline, 0), signal.SIGKILL)
    assert list(pipeline.serve(REQUESTS)) == expected


def test_a_connection_that_breaks_costs_no_token(
    pipeline, expected, monkeypatch, logged
):
    logged.clear()
    workers = engine_of(pipeline).workers
    is_connected = workers.transport.name != "calls"

    def disconnect() -> None:
        num_ended: Any = ray.get(workers.actors[0].disconnect.remote())
        assert num_ended == 2 * is_connected

    before_first(pipeline, "decode", disconnect, monkeypatch)
    epoch = workers.epoch
    assert list(pipeline.serve(REQUESTS)) == expected
    assert workers.epoch == epoch + is_connected
    if is_connected:
        failure, recovery = logged
        assert re.fullmatch(
            r"stage \d on node\d/cpu:\d: a connection from another stage broke \(.+\): the stages connect again; then the run continues",
            failure,
        )
        assert recovery.startswith("all stages run again after ")


def test_stages_listen_on_loopback_alone(pipeline):
    workers = engine_of(pipeline).workers
    for _, address in workers.calls.call_all("address"):
        if workers.transport.name != "calls":
            assert address[0] == "127.0.0.1"


def test_a_process_that_ends_is_noticed_within_a_second(pipeline, expected):
    workers = engine_of(pipeline).workers
    os.kill(process_of(pipeline, 1), signal.SIGKILL)
    killed_s = time.perf_counter()
    while not workers.monitor.failed and time.perf_counter() - killed_s < 10:
        time.sleep(0.01)
    assert time.perf_counter() - killed_s < 1
    assert list(pipeline.serve(REQUESTS)) == expected


def test_a_worker_that_is_killed_while_it_loads_loads_again(
    spare, start, expected, tmp_path
):
    started = tmp_path / "started"
    started.mkdir()
    killed: list[int] = []

    def kill_first() -> None:
        while not killed:
            time.sleep(0.01)
            for path in started.iterdir():
                os.kill(int(path.name), signal.SIGKILL)
                killed.append(int(path.name))
                break

    killer = threading.Thread(target=kill_first, daemon=True)
    killer.start()
    layers: list[int] = []
    set_up = partial(set_worker_up, str(tmp_path / "compiled"), started=str(started))
    with Pipeline.load(
        spare, start=start(set_up=set_up), on_layer=lambda: layers.append(1)
    ) as loaded:
        killer.join()
        assert len(list(started.iterdir())) == 3
        assert len(layers) == 4
        assert list(loaded.serve(REQUESTS)) == expected


def test_a_run_without_restarts_ends_at_a_failure(spare, start, expected, monkeypatch):
    with Pipeline.load(spare, start=start(restarts=False)) as loaded:
        process = process_of(loaded, 0)
        before_first(
            loaded, "decode", lambda: os.kill(process, signal.SIGKILL), monkeypatch
        )
        with pytest.raises(
            WorkerFailedError,
            match=r"^the worker of stage 0 on cellar/cpu:0 \(process \d+\) has ended: see Ray's logs on that machine",
        ):
            list(loaded.serve(REQUESTS))


def test_a_device_that_is_missing_after_a_restart_has_failed(
    spare, start, expected, monkeypatch
):
    with Pipeline.load(spare, start=start()) as loaded:
        workers = engine_of(loaded).workers
        process = process_of(loaded, 1)

        def remove_device() -> None:
            # The next load asks for a device that is missing, as if it had been removed.
            first, second = spare.stages
            stages = (first, replace(second, device="attic/tpu:0"))
            monkeypatch.setattr(workers, "strategy", replace(spare, stages=stages))
            monkeypatch.setattr(workers.calls, "stages", stages)
            os.kill(process, signal.SIGKILL)

        before_first(loaded, "decode", remove_device, monkeypatch)
        with pytest.raises(
            DeviceFailedError,
            match=r"stage 1 on attic/tpu:0: .* JAX finds no .* see Ray's logs",
        ) as caught:
            list(loaded.serve(REQUESTS))
    assert caught.value.devices == ("attic/tpu:0",)
    assert {"attic", "cellar"} <= set(caught.value.nodes)


def test_a_machine_that_comes_back_in_time_costs_no_token(
    spare: Strategy,
    start: Callable[..., StartEngine],
    machines: Machines,
    expected: list[Completion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Pipeline.load(spare, start=start(restart_timeout_s=60)) as loaded:

        def restart_machine() -> None:
            machines.kill("attic")
            machines.start("attic")

        before_first(loaded, "decode", restart_machine, monkeypatch)
        assert list(loaded.serve(REQUESTS)) == expected


def test_a_machine_that_has_failed_ends_the_run_and_keeps_its_results(
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

        def kill_machine() -> None:
            machines.kill("attic")
            # Its processes outlive it for a moment.
            psutil.Process(process).wait(60)

        before_first(loaded, "decode", kill_machine, monkeypatch)
        with pytest.raises(
            DeviceFailedError,
            match=r"stage 1 on attic/cpu:1 \(process \d+\) has .*, and its node attic has left the cluster",
        ) as caught:
            done += loaded.serve(REQUESTS)
    assert "\n" not in str(caught.value)
    assert "attic" not in caught.value.nodes
    assert {"cellar", "node0", "node1"} <= set(caught.value.nodes)
    assert done == expected[: len(done)]
