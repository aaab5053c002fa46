"""Ways between machines are timed: on a clock that only ways move, and under Ray."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import StrategyError, WorkerFailedError
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.runtime.engines.ray import link_probe as ray_probe
from llmpq_jax.runtime.engines.ray.link_probe import LinkProbe, ProbeActor, time_ways
from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.stage.message import Message
from tests.ray_machines import Machines

WIDTH = 8


class Clock:
    """Time that passes by pauses and on ways."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Line:
    """A way of a latency and a bandwidth to another actor, or to nowhere."""

    clock: Clock
    latency_s: float
    token_s: float
    target: ProbeActor | None = None

    def seconds(self, num_tokens: int) -> float:
        return self.latency_s + num_tokens * self.token_s

    def send(self, message: Message) -> None:
        self.clock.now_s += self.seconds(message.payload.shape[0])
        if self.target is not None:
            self.target._take_in(message)


class Arrays:
    """A device whose arrays are NumPy's."""

    class Here(np.ndarray):
        def block_until_ready(self) -> Any:
            return self

    def put(self, array: np.ndarray) -> Any:
        return np.asarray(array).view(self.Here)


def made_probe(way: Line) -> ProbeActor:
    probe = ProbeActor()
    probe._placement = Arrays()  # pyright: ignore[reportAttributeAccessIssue]
    probe._terminal = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        break_off=lambda: None, toward=lambda _peer, _epoch: way
    )
    probe._carrier = TransportConfig(name="sockets", patience_s=0.01)
    probe._hidden_size, probe._dtype = WIDTH, np.dtype(np.float32)
    probe.begin(1, None)
    return probe


SECONDS = st.floats(1e-6, 0.1)


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 50))
def test_a_way_takes_what_it_takes_with_no_clock_at_its_end(
    latency_s, there_s, back_s, num_tokens
):
    """Ways may differ in bandwidth; of a single token's way half the round is told."""
    clock = Clock()
    there, back = (Line(clock, latency_s, token_s) for token_s in (there_s, back_s))
    source, target = made_probe(there), made_probe(back)
    there.target, back.target = target, source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_probe, "time", clock)
        samples = source.seconds_there(num_tokens, pause_s=0.002)
    told = (there.seconds(1) - back.seconds(1)) / 2
    # What one token takes longer one way than the other is split between both.
    assert samples == pytest.approx([there.seconds(num_tokens) - told] * len(samples))
    assert 3 <= len(samples) <= 40


def test_what_does_not_come_back_is_told():
    probe = made_probe(Line(Clock(), 0.0, 0.0))
    with pytest.raises(ConnectionError, match=r"nothing came back within 0\.01\d* s"):
        probe.seconds_there(1, pause_s=0.0)
    probe._break(1, OSError("the cable"))
    with pytest.raises(ConnectionError, match="the cable"):
        probe.seconds_there(1, pause_s=0.0)


def test_what_was_sent_to_another_process_is_not_taken_in():
    probe = made_probe(Line(Clock(), 0.0, 0.0))
    late = probe._message(1, ray_probe._BACK)
    probe.begin(2, None)
    probe._take_in(late)
    probe._break(1, OSError("long ago"))
    assert probe._back.empty()


ENDS = ("node0/cpu:0", "node1/cpu:1")
WAYS = tuple(
    LinkProbe(source=source, target=target, num_tokens=count)
    for source, target in (ENDS, ENDS[::-1])
    for count in (1, 4096)
)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("transport", ["sockets", "calls", "transfer"])
def test_ways_are_timed_both_ways(machines: Machines, transport):
    timed = list(
        time_ways(
            WAYS,
            hidden_size=WIDTH,
            dtype="bfloat16",
            pause_s=0.001,
            address=machines.address,
            transport=transport,
        )
    )
    assert tuple(way for way, _ in timed) == WAYS
    assert all(len(samples) >= 3 for _, samples in timed)
    assert all(np.median(samples) > 0 for _, samples in timed)


def ask(ways, address, **options):
    timed = time_ways(
        ways,
        hidden_size=WIDTH,
        dtype="float32",
        pause_s=0.0,
        address=address,
        **options,
    )
    return next(timed)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_what_is_not_there_is_named(machines: Machines, monkeypatch):
    elsewhere = LinkProbe(source="node0/cpu:0", target="attic/cpu:0", num_tokens=1)
    with pytest.raises(
        DeviceFailedError, match="the cluster file needs the nodes attic"
    ):
        ask([elsewhere], machines.address)
    gpu = LinkProbe(source="node0/cpu:0", target="node1/cuda:7", num_tokens=1)
    with pytest.raises(StrategyError, match=r"^node1/cuda:7: device "):
        ask([gpu], machines.address)
    monkeypatch.setattr(ray_probe, "__version__", "0.0.1")
    with pytest.raises(
        StrategyError, match=r"^node0/cpu:0: llmpq-jax is .* and 0\.0\.1"
    ):
        ask(WAYS, machines.address)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_process_that_ends_is_told(machines: Machines, monkeypatch):
    begin = ProbeActor.begin

    def end(self, epoch, peer):
        import os

        os._exit(1)

    monkeypatch.setattr(ProbeActor, "begin", end)
    with pytest.raises(
        WorkerFailedError, match=r"from node0/cpu:0 to node1/cpu:1: the process"
    ):
        ask(WAYS, machines.address)
    monkeypatch.setattr(ProbeActor, "begin", begin)
    # The machines are free again.
    way, samples = ask(WAYS, machines.address)
    assert way == WAYS[0]
    assert len(samples) >= 3
