"""Messages over sockets on loopback come whole, in order and from no one else."""

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

from llmpq_jax.runtime.engines.transport import TransportConfig, sockets
from llmpq_jax.runtime.engines.transport.serialized import MessageCodec
from llmpq_jax.runtime.engines.transport.sockets import SocketEndpoint
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows


class End:
    """One process's endpoint, with the messages that it received."""

    def __init__(self, config: TransportConfig) -> None:
        self.received: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.broken: queue.SimpleQueue[tuple[int, BaseException]] = queue.SimpleQueue()
        self.may_receive = threading.Event()
        self.may_receive.set()
        self.endpoint = SocketEndpoint(
            "127.0.0.1",
            config,
            MessageCodec(),
            on_message=self._on_message,
            on_disconnect=lambda epoch, reason: self.broken.put((epoch, reason)),
        )

    def _on_message(self, message: Message) -> None:
        assert self.may_receive.wait(60)
        self.received.put(message)


@pytest.fixture(scope="module")
def open_end() -> Iterator[Callable[[TransportConfig], End]]:
    with ExitStack() as ends:

        def opened(config: TransportConfig) -> End:
            end = End(config)
            ends.callback(end.endpoint.close)
            return end

        yield opened


@pytest.fixture(scope="module")
def config() -> TransportConfig:
    return TransportConfig(name="sockets", timeout_s=30)


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


# Sizes around those where buffers are sent out of band, and where a write is split.
@given(st.lists(st.sampled_from([0, 1, 4095, 4096, 16384, 300_000]), max_size=4))
def test_messages_come_whole_and_in_order(open_end, config, sizes):
    here, there = open_end(config), open_end(config)
    send = here.endpoint.connect(there.endpoint.address, 3)
    for step, size in enumerate(sizes):
        send(message(np.arange(size, dtype=np.float32), step=step))
    for step, size in enumerate(sizes):
        found = there.received.get(timeout=60)
        assert found.step == step
        np.testing.assert_array_equal(found.payload, np.arange(size, dtype=np.float32))
    assert here.received.empty()
    here.endpoint.disconnect()


def test_a_peer_that_does_not_know_the_key_is_refused(open_end, config):
    there = open_end(config)
    stranger = open_end(TransportConfig(name="sockets", timeout_s=30))
    send = stranger.endpoint.connect(there.endpoint.address, 3)
    with pytest.raises(ConnectionError, match=r"the connection to 127.0.0.1:\d+ broke"):
        send(message(np.zeros(1)))
    with socket.create_connection(there.endpoint.address) as noise:
        noise.sendall(b"\x00\x00\x00\x04\x80\x05N." * 100)
    send = open_end(config).endpoint.connect(there.endpoint.address, 3)
    send(message(np.ones(1)))
    np.testing.assert_array_equal(there.received.get(timeout=60).payload, np.ones(1))
    assert there.received.empty()


def test_the_end_of_a_connection_is_reported_with_its_epoch(open_end, config):
    here, there = open_end(config), open_end(config)
    here.endpoint.connect(there.endpoint.address, 7)(message(np.zeros(1)))
    there.received.get(timeout=60)
    here.endpoint.disconnect()
    epoch, reason = there.broken.get(timeout=60)
    assert epoch == 7
    assert isinstance(reason, EOFError)


def test_sending_to_a_closed_endpoint_is_an_error(open_end, config):
    here, there = open_end(config), End(config)
    there.endpoint.close()
    send = here.endpoint.connect(there.endpoint.address, 3)
    with pytest.raises(ConnectionError, match="refused"):
        send(message(np.zeros(1)))


def test_sending_to_a_peer_that_stopped_reading_can_be_ended(open_end, config):
    here, there = open_end(config), open_end(config)
    there.may_receive.clear()
    send_one = here.endpoint.connect(there.endpoint.address, 3)
    ended: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    began = threading.Event()

    def send() -> None:
        try:
            while True:
                send_one(message(np.zeros(1 << 20)))
                began.set()
        except ConnectionError as reason:
            ended.put(reason)

    threading.Thread(target=send, daemon=True).start()
    assert began.wait(60)
    here.endpoint.disconnect()
    assert isinstance(ended.get(timeout=60), ConnectionError)
    there.may_receive.set()


def test_strangers_do_not_keep_stages_out(open_end, config, monkeypatch):
    """Connections without the key are as many as are allowed, and the oldest are ended."""
    monkeypatch.setattr(sockets, "_MAX_STRANGERS", 3)
    there = open_end(config)
    strangers = [socket.create_connection(there.endpoint.address) for _ in range(8)]
    send = open_end(config).endpoint.connect(there.endpoint.address, 3)
    send(message(np.ones(1)))
    np.testing.assert_array_equal(there.received.get(timeout=60).payload, np.ones(1))
    for stranger in strangers[:5]:
        stranger.settimeout(60)
        while stranger.recv(4096):
            pass
    for stranger in strangers:
        stranger.close()
    assert there.broken.empty()


def test_a_stranger_has_some_seconds_in_all(open_end, config, monkeypatch):
    """However it drips: here none at all."""
    monkeypatch.setattr(sockets, "_CONNECT_TIMEOUT_S", 0)
    there = open_end(config)
    with socket.create_connection(there.endpoint.address) as stranger:
        stranger.settimeout(60)
        while stranger.recv(4096):
            pass


def test_after_a_connection_that_cannot_be_accepted_the_next_one_is(
    open_end, config, monkeypatch
):
    there = open_end(config)
    accept = socket.socket.accept
    failures = [OSError(24, "Too many open files")] * 2

    def fails_at_first(server):
        if failures:
            raise failures.pop()
        return accept(server)

    monkeypatch.setattr(socket.socket, "accept", fails_at_first)
    # The thread is in the call before this one still.
    for _ in range(4):
        socket.create_connection(there.endpoint.address).close()
    send = open_end(config).endpoint.connect(there.endpoint.address, 3)
    send(message(np.ones(1)))
    there.received.get(timeout=60)
    assert failures == []
