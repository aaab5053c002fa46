"""One stage in a process of its own, as Ray runs it."""

from __future__ import annotations

import os
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from llmpq_jax import __version__
from llmpq_jax.checkpoint.source import open_source
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.errors import StrategyError
from llmpq_jax.runtime.claimed_devices import claim_devices
from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.runtime.engines.transport.endpoint import Endpoint, open_endpoint
from llmpq_jax.runtime.engines.transport.serialized import (
    SerializedMessage,
    pack,
    unpack,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.build import build_worker
from llmpq_jax.stage.loop import StageLoop, Transport
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import BatchNeeds, StageFacts, StageWorker


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """A sign of life.

    Attributes:
        process: Names the process among all that ever were.
        pid: Its number on its machine.
        clock_s: Its `time.perf_counter`.
        num_layers: Layers that are loaded.
    """

    process: str
    pid: int
    clock_s: float
    num_layers: int


class StageActor:
    """Drives one stage's worker; the driver and the neighbouring stages call it.

    What its worker made goes straight to the process of the stage after it. The last
    stage keeps results until they are collected, and while a message has decode steps
    left it sends its tokens straight to the first stage.
    """

    def __init__(self) -> None:
        """Does nothing that may fail: Ray would tell of it less well than of `load`."""
        self._process = uuid.uuid4().hex
        self._num_layers = 0
        self._epoch = 0
        self._worker: StageWorker | None = None
        self._loop: StageLoop | None = None
        self._outbox: queue.SimpleQueue[SerializedMessage | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._steps: dict[int, list[np.ndarray]] = {}
        self._terminal: Endpoint | None = None
        self._first: Transport | None = None
        self._next: Transport | None = None

    def load(
        self,
        strategy: Strategy,
        number: int,
        version: str,
        set_up: Callable[[], WeightsCache | None],
        carrier: TransportConfig,
    ) -> StageFacts:
        """Loads a stage from this machine's own disk onto its devices.

        Args:
            strategy: Its model path as this machine sees it.
            number: Of the stage.
            version: Of the driver's llmpq-jax.
            set_up: Called before JAX starts; says where rounded weights are kept.
            carrier: What brings messages to the other stages.

        Raises:
            StrategyError: The strategy is for another model, or for devices that are not
                here; or this machine has another version of llmpq-jax.
            CheckpointError: The weights are missing or damaged.
        """
        check_version(version)
        weights_cache = set_up()
        self._num_layers = 0
        stage = strategy.stages[number]
        devices = claim_devices(stage.devices)
        source = open_source(strategy)
        self._worker = build_worker(
            source.reader,
            source.architecture,
            stage,
            strategy.precision,
            number=number,
            devices=devices,
            received_bits=strategy.received_bits(number),
            rounded=source.rounded,
            weights_cache=weights_cache,
            on_layer=self._count_layer,
        )
        self._terminal = open_endpoint(
            carrier,
            self._worker.placement,
            handle=ray.get_runtime_context().current_actor,
            host=ray.util.get_node_ip_address(),
            take=self._take_in,
            on_break=self._break,
        )
        return self._worker.facts

    def address(self) -> Any:
        """Returns where other stages reach this one."""
        assert self._terminal is not None, "load comes first"
        return self._terminal.address

    def begin(self, epoch: int, first: Any, after: Any) -> None:
        """Starts an epoch with an empty inbox; what is left of the one before is dropped.

        Args:
            epoch: Its number.
            first: Address of the first stage.
            after: That of the stage after this one; None after the last.
        """
        assert self._terminal is not None, "load comes first"
        # From here on nothing of the epoch before is taken in or handed on.
        self._epoch = epoch
        # First of all: what is sent to a machine that is gone may take for ever.
        self._terminal.break_off()
        if self._loop is not None:
            self._loop.abandon()
        self._first = self._terminal.toward(first, epoch)
        self._next = None if after is None else self._terminal.toward(after, epoch)
        self._steps = {}
        waiting, self._outbox = self._outbox, queue.SimpleQueue()
        waiting.put(None)
        self._loop = StageLoop(self._loaded, onward=self, on_failure=self._fail)

    def prepare(self, needs: Sequence[BatchNeeds]) -> None:
        """Compiles for all that is needed."""
        for need in needs:
            self._loaded.prepare(need)

    def allocate(self, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes empty caches for so many groups of rows."""
        self._loaded.allocate(
            num_groups=num_groups, num_rows=num_rows, num_slots=num_slots
        )

    def free(self) -> None:
        """Gives the caches' memory back; a process that has loaded nothing has none."""
        if self._worker is not None:
            self._worker.free()

    def take_events(self) -> list[StageEvent]:
        """Returns what was worked on since the last call, on this process's clock."""
        return self._loaded.take_events()

    def peak(self) -> StagePeak:
        """Returns the most that the stage held, while its caches are allocated."""
        return self._loaded.peak

    @ray.method(concurrency_group="health", enable_task_events=False)
    def pulse(self) -> Heartbeat:
        """Says that the process lives."""
        return Heartbeat(
            process=self._process,
            pid=os.getpid(),
            clock_s=time.perf_counter(),
            num_layers=self._num_layers,
        )

    # Nobody asks for its answer or looks up when it was called: both cost time.
    @ray.method(concurrency_group="inbox", num_returns=0, enable_task_events=False)
    def receive(self, parcel: SerializedMessage) -> None:
        """Takes a message from the driver, or from a stage that calls."""
        try:
            message = unpack(parcel)
        except BaseException as error:
            self._fail(error)
        else:
            self._take_in(message)

    @ray.method(concurrency_group="results", enable_task_events=False)
    def collect(self) -> list[SerializedMessage]:
        """Waits for results and returns all there are; none once an epoch has ended.

        Raises:
            BaseException: What the stage raised.
        """
        outbox = self._outbox
        taken = [outbox.get()]
        while not outbox.empty():
            taken.append(outbox.get())
        for item in taken:
            if isinstance(item, BaseException):
                raise item
        return [item for item in taken if isinstance(item, SerializedMessage)]

    def send(self, message: Message) -> None:
        """Hands on what the worker made; called in the loop's thread."""
        if message.epoch != self._epoch:
            return
        if self._next is not None:
            self._next.send(message)
            return
        if message.phase == "decode" and message.tokens is None:
            steps = self._steps.setdefault(message.micro_batch, [])
            steps.append(np.asarray(message.payload))
            if message.steps_left:
                assert self._first is not None
                self._first.send(self._loaded.following(message))
                return
            message = replace(message, tokens=np.stack(steps), num_steps=len(steps))
            del self._steps[message.micro_batch]
        self._outbox.put(pack(message))

    @property
    def _loaded(self) -> StageWorker:
        assert self._worker is not None, "load comes first"
        return self._worker

    def _take_in(self, message: Message) -> None:
        if message.epoch != self._epoch:
            return
        assert self._loop is not None
        try:
            self._loop.send(message)
        except BaseException as error:
            self._fail(error)

    def _break(self, epoch: int, reason: BaseException) -> None:
        if epoch == self._epoch:
            msg = f"a connection from another stage broke ({reason})"
            self._fail(ConnectionError(msg))

    def _count_layer(self) -> None:
        self._num_layers += 1

    def _fail(self, error: BaseException) -> None:
        self._outbox.put(error)


def check_version(version: str) -> None:
    """Refuses to work for a driver of another version.

    Args:
        version: The driver's.

    Raises:
        StrategyError: This machine has another one.
    """
    if version != __version__:
        msg = f"llmpq-jax is {__version__} here and {version} where the run was started: expected the same; install it anew"
        raise StrategyError(msg)
