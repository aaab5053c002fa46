"""Times what each visit of the engine to a stage costs beside what the stage holds.

A visit costs something whatever is computed: the host sends a call off and hears of its
end, one thread wakes another, and while a stage waited for the others the threads of its
device went to sleep. With T₁ and Tₙ seconds of one layer and of n (as many as layers are
timed by, but two at least) in calls that follow one another at once, with the middle number
of rows that plans may have, R of a round through two stages of n layers each, as the engine
drives them, each waiting for the other, and S of what the first sends to the second, after a
pause as well:

    at once = (n T₁ − Tₙ) / (n − 1)
    call    = at once + (R − 2 Tₙ − S) / 2

What is sent counts as a hop, and so is taken off. The way back to the first stage, through
the driver, is no hop of a plan: the visits share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stage_ring import ring
from llmpq_jax.profiler.stopwatch import (
    STAGE_PAUSE_S,
    WARM_UP_S,
    Timing,
    mean_seconds,
    summary,
)
from llmpq_jax.schema.measurements import DispatchTime
from llmpq_jax.stage.emulated_devices import JaxDevice

_ROUNDS = 41
_MIN_ROUNDS = 7
_MAX_S = 20.0
_TURNS = 4
# They span some seconds, because a machine may be slow for one.
_BETWEEN_ROUNDS_S = 0.05


def measure_dispatch_overhead(
    session: Session, kind: str, devices: Sequence[JaxDevice]
) -> None:
    """Times a visit of a stage on a kind of device, where still missing.

    Args:
        session: The profile.
        kind: Of the devices.
        devices: Equal ones of a node; the first and the last of them are taken.
    """
    if is_overhead_measured(session, kind):
        return
    shape = session.grid.middle
    bits = min(session.bits)
    # On a device that is the only one of its kind both stacks have to fit.
    num_stacked = max(2, session.num_stacked // (1 if len(devices) > 1 else 2))
    one = session.bench(devices[0], num_layers=1, bits=bits)
    first, last = (
        session.bench(device, num_layers=num_stacked, bits=bits)
        for device in (devices[0], devices[-1])
    )
    calls = (one.call("decode", shape), first.call("decode", shape))
    with ring((first, last), "decode", shape) as joined:
        at_once, visit = time_dispatch(
            *calls,
            num_stacked,
            lambda rounds: joined.go_round(1, rounds),
            joined.hop,
            session.stopwatch.clock,
            sleep=session.stopwatch.sleep,
        )
    for bench in (one, first, last):
        bench.free()
    session.journal.add(
        DispatchTime(
            kind=kind,
            seconds=visit.seconds,
            spread=visit.spread,
            back_to_back_seconds=min(at_once.seconds, visit.seconds),
        )
    )
    session.on_row(f"{kind}: a stage by itself")


def is_overhead_measured(session: Session, kind: str) -> bool:
    """Tells whether it was measured before."""
    return _held(session, kind) is not None


def back_to_back_s(session: Session, kind: str) -> float:
    """Returns what layers of a kind need not carry of a call.

    0 before it was measured, and where it was by a profiler whose layers carried it.
    """
    row = _held(session, kind)
    return 0.0 if row is None else row.back_to_back_seconds


def _held(session: Session, kind: str) -> DispatchTime | None:
    rows = session.journal.measurements.dispatch
    return next((row for row in rows if row.kind == kind), None)


def time_dispatch(
    one_layer: Callable[[], object],
    stack: Callable[[], object],
    num_stacked: int,
    turn: Callable[[int], object],
    hop: Callable[[], object],
    clock: Callable[[], float],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Timing, Timing]:
    """Times what a call takes beside its layers: at once, and in a pipeline.

    All of it is timed in each round, so that what slows the machine for a while slows all.

    Args:
        one_layer: A call, see the module for this and what follows.
        stack: Likewise, of several layers.
        num_stacked: How many.
        turn: So many times through two such stacks.
        hop: What the first of them sends to the second.
        clock: Seconds from any start.
        sleep: Pauses between rounds, and before a hop.
    """

    def seconds(call: Callable[[], object]) -> float:
        started_s = clock()
        call()
        return clock() - started_s

    def back_to_back_seconds(call: Callable[[], object]) -> float:
        # The first ones find threads asleep and caches cold.
        mean_seconds(call, clock, for_s=WARM_UP_S)
        return mean_seconds(call, clock, for_s=WARM_UP_S)

    at_once, visits = [], []
    began_s = clock()
    while len(visits) < _MIN_ROUNDS or (
        len(visits) < _ROUNDS and clock() - began_s < _MAX_S
    ):
        sleep(_BETWEEN_ROUNDS_S)
        one_s, stack_s = back_to_back_seconds(one_layer), back_to_back_seconds(stack)
        sleep(STAGE_PAUSE_S)
        hop_s = seconds(hop)
        # The first one finds all threads asleep, as no later one does.
        turn(1)
        turn_s = seconds(lambda: turn(_TURNS)) / _TURNS
        at_once.append((num_stacked * one_s - stack_s) / (num_stacked - 1))
        visits.append(at_once[-1] + (turn_s - 2 * stack_s - hop_s) / 2)
    return summary(at_once), summary(visits)
