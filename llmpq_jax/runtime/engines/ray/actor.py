"""The actor of one stage, which Ray runs in a process of its own."""

from __future__ import annotations

import os
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from llmpq_jax.checkpoint.open_store import open_store, read_model
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.runtime.claimed_devices import claim_devices
from llmpq_jax.runtime.engines.ray.health import Heartbeat, check_version
from llmpq_jax.runtime.engines.transport import TransportConfig, cause_text
from llmpq_jax.runtime.engines.transport.endpoint import Endpoint, open_endpoint
from llmpq_jax.runtime.engines.transport.serialized import (
    SerializedMessage,
    deserialize,
    serialize,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory, stage_memories
from llmpq_jax.stage.build import build_worker
from llmpq_jax.stage.loop import Send, StageLoop
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import StageFacts, StageShapes, StageWorker


class StageActor:
    """Runs one stage's worker for the engine and the neighbouring stages.

    Results are sent straight to the process of the next stage. The last stage keeps them
    until the engine collects them; while a message has decode steps left, it sends its
    tokens straight to the first stage.
    """

    def __init__(self) -> None:
        """Does nothing that may fail, because Ray reports failures of `load` better."""
        self._process = uuid.uuid4().hex
        self._num_layers = 0
        self._epoch = 0
        self._worker: StageWorker | None = None
        self._loop: StageLoop | None = None
        self._outbox: queue.SimpleQueue[SerializedMessage | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._steps: dict[int, list[np.ndarray]] = {}
        self._endpoint: Endpoint | None = None
        self._first_stage: Send | None = None
        self._next_stage: Send | None = None

    def compile(
        self,
        strategy: Strategy,
        number: int,
        version: str,
        set_up: Callable[[], object],
    ) -> tuple[ProgramMemory, ...]:
        """Compiles a stage without its weights; returns the memory of its programs.

        See `load` for the arguments and errors.
        """
        check_version(version)
        set_up()
        architecture = read_model(strategy)
        devices = claim_devices(strategy.stages[number].devices)
        return stage_memories(strategy, architecture, number=number, devices=devices)

    def load(
        self,
        strategy: Strategy,
        number: int,
        version: str,
        set_up: Callable[[], WeightsCache | None],
        transport: TransportConfig,
    ) -> StageFacts:
        """Loads a stage from this machine's disk onto its devices.

        The strategy has the model's path on this machine. `set_up` is called before JAX
        starts and returns the cache of rounded weights. For errors see `start_local`;
        another version of llmpq-jax than the engine's is a StrategyError.
        """
        check_version(version)
        weights_cache = set_up()
        self._num_layers = 0
        stage = strategy.stages[number]
        devices = claim_devices(stage.devices)
        store = open_store(strategy)
        worker = build_worker(
            store,
            stage,
            strategy.precision,
            number=number,
            devices=devices,
            received_bits=strategy.received_bits(number),
            weights_cache=weights_cache,
            on_layer=self._count_layer,
        )
        endpoint = open_endpoint(
            transport,
            worker.sharding,
            actor=ray.get_runtime_context().current_actor,
            host=ray.util.get_node_ip_address(),
            on_message=self._receive,
            on_disconnect=self._on_disconnect,
        )
        self.attach(worker, endpoint)
        return worker.facts

    def attach(self, worker: StageWorker, endpoint: Endpoint) -> None:
        """Takes a loaded worker, and the endpoint of this process."""
        self._worker = worker
        self._endpoint = endpoint

    def address(self) -> Any:
        """Returns the address by which other stages connect to this one."""
        assert self._endpoint is not None, "load comes first"
        return self._endpoint.address

    def disconnect(self) -> int:
        """Ends the connections to other stages; returns how many there were."""
        assert self._endpoint is not None, "load comes first"
        return self._endpoint.disconnect()

    def start_epoch(self, epoch: int, first_stage: Any, next_stage: Any) -> None:
        """Drops the messages of the epoch before, and starts one with an empty inbox.

        The stages are given by their addresses; None follows the last stage.
        """
        assert self._endpoint is not None, "load comes first"
        # From here on no message of the epoch before is received or sent.
        self._epoch = epoch
        # This comes first, because a send to a failed machine may never end.
        self._endpoint.disconnect()
        if self._loop is not None:
            self._loop.abandon()
        self._first_stage = self._endpoint.connect(first_stage, epoch)
        self._next_stage = (
            None if next_stage is None else self._endpoint.connect(next_stage, epoch)
        )
        self._steps = {}
        waiting, self._outbox = self._outbox, queue.SimpleQueue()
        waiting.put(None)
        self._loop = StageLoop(
            self._loaded, downstream=self.send, on_failure=self._fail
        )

    def prepare(self, shapes: Sequence[StageShapes]) -> None:
        """Compiles the stage for input shapes."""
        for each in shapes:
            self._loaded.prepare(each)

    def allocate(self, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes the empty caches of all groups."""
        self._loaded.allocate(
            num_groups=num_groups, num_rows=num_rows, num_slots=num_slots
        )

    def free(self) -> None:
        """Frees the caches; a process that has loaded nothing has none."""
        if self._worker is not None:
            self._worker.free()

    def take_events(self) -> list[StageEvent]:
        """Returns the stage's events since the last call, on this process's clock."""
        return self._loaded.take_events()

    def peak(self) -> StagePeak:
        """Returns the stage's peak memory, while its caches are allocated."""
        return self._loaded.peak

    @ray.method(concurrency_group="health", enable_task_events=False)
    def heartbeat(self) -> Heartbeat:
        """Answers a health check."""
        return Heartbeat(
            process=self._process,
            pid=os.getpid(),
            clock_s=time.perf_counter(),
            num_layers=self._num_layers,
        )

    # Returning nothing and leaving no task events saves time in each call.
    @ray.method(concurrency_group="inbox", num_returns=0, enable_task_events=False)
    def receive(self, serialized: SerializedMessage) -> None:
        """Receives a message by a call of the engine or of another stage."""
        try:
            message = deserialize(serialized)
        except BaseException as error:
            self._fail(error)
        else:
            self._receive(message)

    @ray.method(concurrency_group="results", enable_task_events=False)
    def collect(self) -> list[SerializedMessage]:
        """Waits for results, and returns all that are ready; none when the epoch ends.

        An exception of the stage is raised in their place.
        """
        outbox = self._outbox
        items = [outbox.get()]
        while not outbox.empty():
            items.append(outbox.get())
        for item in items:
            if isinstance(item, BaseException):
                raise item
        return [item for item in items if isinstance(item, SerializedMessage)]

    def send(self, message: Message) -> None:
        """Sends a result of the worker; called in the loop's thread."""
        if message.epoch != self._epoch:
            return
        if self._next_stage is not None:
            self._next_stage(message)
            return
        if message.phase == "decode" and message.tokens is None:
            steps = self._steps.setdefault(message.micro_batch, [])
            steps.append(np.asarray(message.payload))
            if message.steps_left:
                assert self._first_stage is not None
                self._first_stage(self._loaded.next_step(message))
                return
            message = replace(message, tokens=np.stack(steps), num_steps=len(steps))
            del self._steps[message.micro_batch]
        self._outbox.put(serialize(message))

    @property
    def _loaded(self) -> StageWorker:
        assert self._worker is not None, "load comes first"
        return self._worker

    def _receive(self, message: Message) -> None:
        if message.epoch != self._epoch:
            return
        assert self._loop is not None
        try:
            self._loop.send(message)
        except BaseException as error:
            self._fail(error)

    def _on_disconnect(self, epoch: int, reason: BaseException) -> None:
        if epoch == self._epoch:
            msg = f"a connection from another stage broke ({cause_text(reason)})"
            self._fail(ConnectionError(msg))

    def _count_layer(self) -> None:
        self._num_layers += 1

    def _fail(self, error: BaseException) -> None:
        self._outbox.put(error)
