"""Times what a stage costs by itself when the engine visits it.

The engine gives each stage a thread and an inbox. A micro-batch that is handed over wakes
the stage's thread, and that one the device's, which went to sleep while other stages
worked. Calls one after the other from one thread, as layers are timed, know none of that:

    call = (T(two stages that hand over to each other) − T(both from one thread)) / 2
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from llmpq_jax.profiler.session import Session
from llmpq_jax.spec.measurements import CallTime
from llmpq_jax.stage.devices import JaxDevice

_NUM_STAGES = 2


def measure_call(session: Session, kind: str, device: JaxDevice) -> None:
    """Times a call on a kind of device, where still missing."""
    if is_call_held(session, kind):
        return
    shape = min(session.grid.shapes, key=lambda shape: (shape.rows, shape.num_slots))
    with ExitStack() as stack:
        benches = [
            session.bench(device, num_layers=1, bits=session.bits[0])
            for _ in range(_NUM_STAGES)
        ]
        for bench in benches:
            stack.callback(bench.free)
        calls = [bench.call("decode", shape) for bench in benches]
        relay = stack.enter_context(Relay(calls))

        def direct() -> None:
            for call in calls:
                call()

        timing = session.stopwatch.time(relay, less=direct)
    session.journal.add(
        CallTime(kind=kind, seconds=timing.seconds / _NUM_STAGES, spread=timing.spread)
    )
    session.on_row(f"{kind}: a stage by itself")


def is_call_held(session: Session, kind: str) -> bool:
    """Tells whether it was measured before."""
    return session.journal.holds(session.journal.measurements.calls, kind=kind)


class Relay:
    """Threads that each do their call when the one before has done its own."""

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self._inboxes: list[queue.SimpleQueue[bool]] = [
            queue.SimpleQueue() for _ in range(len(calls) + 1)
        ]
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._serve, args=(index, call), daemon=True)
            for index, call in enumerate(calls)
        ]

    def __call__(self) -> None:
        """Lets all of them do their calls, once and in order.

        Raises:
            BaseException: What one of them raised.
        """
        self._inboxes[0].put(True)
        self._inboxes[-1].get()
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Relay:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for inbox, thread in zip(self._inboxes, self._threads, strict=False):
            inbox.put(False)
            thread.join()

    def _serve(self, index: int, call: Callable[[], object]) -> None:
        while self._inboxes[index].get():
            try:
                call()
            except BaseException as error:
                self._errors.append(error)
            self._inboxes[index + 1].put(True)
