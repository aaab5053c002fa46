"""Messages over connections on loopback: whole, in order, from nobody else."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.runtime.engines.transport.serialized import MessageSerializer
from llmpq_jax.runtime.engines.transport.sockets import SocketEndpoint
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows


class End:
    """One process's end, and what came to it."""

    def __init__(self, carrier: TransportConfig) -> None:
        self.taken: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.broken: queue.SimpleQueue[tuple[int, BaseException]] = queue.SimpleQueue()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.terminal = SocketEndpoint(
            "127.0.0.1",
            carrier,
            MessageSerializer(),
            take=self._take,
            on_break=lambda epoch, reason: self.broken.put((epoch, reason)),
        )

    def _take(self, message: Message) -> None:
        assert self.goes_on.wait(60)
        self.taken.put(message)


@pytest.fixture(scope="module")
def open_end() -> Iterator[Callable[[TransportConfig], End]]:
    with ExitStack() as ends:

        def opened(carrier: TransportConfig) -> End:
            end = End(carrier)
            ends.callback(end.terminal.close)
            return end

        yield opened


@pytest.fixture(scope="module")
def carrier() -> TransportConfig:
    return TransportConfig(name="sockets", patience_s=30)


def message(payload: np.ndarray, *, step: int = 1) -> Message:
    return Message(
        phase="decode",
        micro_batch=0,
        step=step,
        groups=(0,),
        first_row=0,
        payload=payload,
        slot_B=np.ones(2, np.int32),
        sampling=greedy_rows(2),
        epoch=3,
    )


# Around where a buffer is no longer copied, and where a write is cut in two.
@given(st.lists(st.sampled_from([0, 1, 4095, 4096, 16384, 300_000]), max_size=4))
def test_messages_come_whole_and_in_order(open_end, carrier, sizes):
    here, there = open_end(carrier), open_end(carrier)
    way = here.terminal.toward(there.terminal.address, 3)
    for step, size in enumerate(sizes):
        way.send(message(np.arange(size, dtype=np.float32), step=step))
    for step, size in enumerate(sizes):
        found = there.taken.get(timeout=60)
        assert found.step == step
        np.testing.assert_array_equal(found.payload, np.arange(size, dtype=np.float32))
    assert here.taken.empty()
    here.terminal.break_off()


def test_whoever_does_not_know_the_key_is_not_heard(open_end, carrier):
    there = open_end(carrier)
    stranger = open_end(TransportConfig(name="sockets", patience_s=30))
    way = stranger.terminal.toward(there.terminal.address, 3)
    with pytest.raises(ConnectionError, match=r"the connection to 127.0.0.1:\d+ broke"):
        way.send(message(np.zeros(1)))
    with socket.create_connection(there.terminal.address) as noise:
        noise.sendall(b"\x00\x00\x00\x04\x80\x05N." * 100)
    way = open_end(carrier).terminal.toward(there.terminal.address, 3)
    way.send(message(np.ones(1)))
    np.testing.assert_array_equal(there.taken.get(timeout=60).payload, np.ones(1))
    assert there.taken.empty()


def test_a_connection_that_ends_is_told_of_with_its_epoch(open_end, carrier):
    here, there = open_end(carrier), open_end(carrier)
    here.terminal.toward(there.terminal.address, 7).send(message(np.zeros(1)))
    there.taken.get(timeout=60)
    here.terminal.break_off()
    epoch, reason = there.broken.get(timeout=60)
    assert epoch == 7
    assert isinstance(reason, EOFError)


def test_nobody_listening_is_told_to_whoever_sends(open_end, carrier):
    here, there = open_end(carrier), End(carrier)
    there.terminal.close()
    way = here.terminal.toward(there.terminal.address, 3)
    with pytest.raises(ConnectionError, match="refused"):
        way.send(message(np.zeros(1)))


def test_sending_to_whoever_has_stopped_reading_can_be_ended(open_end, carrier):
    here, there = open_end(carrier), open_end(carrier)
    there.goes_on.clear()
    way = here.terminal.toward(there.terminal.address, 3)
    ended: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    began = threading.Event()

    def send() -> None:
        try:
            while True:
                way.send(message(np.zeros(1 << 20)))
                began.set()
        except ConnectionError as reason:
            ended.put(reason)

    threading.Thread(target=send, daemon=True).start()
    assert began.wait(60)
    here.terminal.break_off()
    assert isinstance(ended.get(timeout=60), ConnectionError)
    there.goes_on.set()
