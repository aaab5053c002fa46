"""Times what a stage costs by itself when the engine visits it.

Layers are timed in calls that follow one another at once. In a pipeline a stage waits for
the others between two visits, and the threads of its device go to sleep meanwhile:

    call = T(a layer after a pause) − T(the same layer at once)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stopwatch import Timing, summary
from llmpq_jax.spec.measurements import CallTime
from llmpq_jax.stage.devices import JaxDevice

_ROUNDS = 41
# About as long as other stages keep a micro-batch.
_PAUSE_S = 0.002


def measure_call(session: Session, kind: str, device: JaxDevice) -> None:
    """Times a call on a kind of device, where still missing."""
    if is_call_held(session, kind):
        return
    shape = min(session.grid.shapes, key=lambda shape: (shape.rows, shape.num_slots))
    bench = session.bench(device, num_layers=1, bits=session.bits[0])
    timing = time_after_pause(bench.call("decode", shape), session.stopwatch.clock)
    bench.free()
    session.journal.add(
        CallTime(kind=kind, seconds=timing.seconds, spread=timing.spread)
    )
    session.on_row(f"{kind}: a stage by itself")


def is_call_held(session: Session, kind: str) -> bool:
    """Tells whether it was measured before."""
    return session.journal.holds(session.journal.measurements.calls, kind=kind)


def time_after_pause(
    call: Callable[[], object],
    clock: Callable[[], float],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Timing:
    """Times by how much a call takes longer after a pause than at once."""

    def seconds() -> float:
        started_s = clock()
        call()
        return clock() - started_s

    samples = []
    for _ in range(_ROUNDS):
        seconds()
        at_once_s = seconds()
        sleep(_PAUSE_S)
        samples.append(seconds() - at_once_s)
    return summary(samples)
