"""Probe actors time one way of a link, on a clock that only links move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime.engines.ray import probe_actor
from llmpq_jax.runtime.engines.ray.probe_actor import REPLY, ProbeActor
from llmpq_jax.stage.message import Message


class Clock:
    """A clock that only pauses and links move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Link:
    """A link of some latency and bandwidth to another actor, or to nowhere."""

    clock: Clock
    latency_s: float
    token_s: float
    target: ProbeActor | None = None
    sent: list[Message] = field(default_factory=list)

    def seconds(self, num_tokens: int) -> float:
        return self.latency_s + num_tokens * self.token_s

    def send(self, message: Message) -> None:
        self.clock.now_s += self.seconds(message.payload.shape[0])
        self.sent.append(message)
        if self.target is not None:
            self.target.on_message(message)


class Arrays:
    """A device whose arrays are NumPy's."""

    class OnDevice(np.ndarray):
        def block_until_ready(self) -> Any:
            return self

    def put(self, array: np.ndarray) -> Any:
        return np.asarray(array).view(self.OnDevice)


def probe_with(link: Link) -> ProbeActor:
    probe = ProbeActor()
    endpoint: Any = SimpleNamespace(
        disconnect=lambda: 0, connect=lambda _peer, _epoch: link.send
    )
    arrays: Any = Arrays()
    dtype = np.dtype(np.float32)
    probe.attach(endpoint, arrays, timeout_s=0.01, hidden_size=8, dtype=dtype)
    probe.start_epoch(1, None)
    return probe


SECONDS = st.floats(1e-6, 0.1)


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 50))
def test_one_way_is_timed_with_the_clock_of_one_end(
    latency_s, there_s, back_s, num_tokens
):
    """The two ways may differ in bandwidth; for a single token both count as half."""
    clock = Clock()
    there, back = (Link(clock, latency_s, token_s) for token_s in (there_s, back_s))
    source, target = probe_with(there), probe_with(back)
    there.target, back.target = target, source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_actor, "time", clock)
        samples = source.one_way_seconds(num_tokens, pause_s=0.002)
    # The difference of one token's two ways is split between both.
    excess_s = (there.seconds(1) - back.seconds(1)) / 2
    expected_s = there.seconds(num_tokens) - excess_s
    assert samples == pytest.approx([expected_s] * len(samples))
    assert 3 <= len(samples) <= 40


def test_a_missing_reply_is_an_error():
    probe = probe_with(Link(Clock(), 0.0, 0.0))
    with pytest.raises(ConnectionError, match=r"no reply came within 0\.01\d* s"):
        probe.one_way_seconds(1, pause_s=0.0)
    probe.on_disconnect(1, OSError("the cable"))
    with pytest.raises(ConnectionError, match="the cable"):
        probe.one_way_seconds(1, pause_s=0.0)


def test_replies_and_failures_of_another_epoch_are_dropped():
    link = Link(Clock(), 0.0, 0.0)
    probe = probe_with(link)
    with pytest.raises(ConnectionError, match="no reply"):
        probe.one_way_seconds(1, pause_s=0.0)
    late = replace(link.sent[0], step=REPLY)
    probe.start_epoch(2, None)
    probe.on_message(late)
    probe.on_disconnect(1, OSError("long ago"))
    with pytest.raises(ConnectionError, match="no reply"):
        probe.one_way_seconds(1, pause_s=0.0)
