"""Times the fixed dispatch overhead of one stage call, whatever layers the stage holds.

The host dispatches the call and is notified of its end, one thread wakes another, and while
the stage waited for others its device's threads went to sleep. With T₁ and Tₙ the seconds of
one layer and of n layers in back-to-back decode calls of the grid's middle shape (n as many
as layers are timed by, but two at least), R the seconds of a round through two stages of n
layers each, connected as the engine connects them, each waiting for the other, and S those
of a transfer from the first to the second, after a pause as well:

    back to back = (n T₁ − Tₙ) / (n − 1)
    in a pipeline = back to back + (R − 2 Tₙ − S) / 2

The transfer is subtracted because plans count it as a hop. What the result's return to the
first stage costs is no hop of a plan, so the two stages share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stage_bench import StageContents
from llmpq_jax.profiler.stage_ring import Ring
from llmpq_jax.profiler.stopwatch import (
    STAGE_PAUSE_S,
    WARM_UP_S,
    Stopwatch,
    Timing,
    summary,
)
from llmpq_jax.schema.measurements import DispatchTime
from llmpq_jax.stage.emulated_devices import JaxDevice

MAX_REPEATS = 41
MIN_REPEATS = 7
_MAX_S = 20.0
_ROUNDS_PER_REPEAT = 4
# Repeats then span some seconds, because a machine may be slow for one.
_BETWEEN_REPEATS_S = 0.05


def measure_dispatch_overhead(
    session: Session, kind: str, devices: Sequence[JaxDevice]
) -> None:
    """Times the dispatch overhead of a kind, if missing, on the first and last device."""
    if measured_overhead(session, kind) is not None:
        return
    shape = session.options.grid.middle
    bits = min(session.options.bits)
    # On a device that is the only one of its kind both stacks have to fit.
    num_stacked = max(2, session.num_stacked // (1 if len(devices) > 1 else 2))
    stack = StageContents(num_layers=num_stacked, bits=bits)
    one = session.bench(devices[:1], StageContents(num_layers=1, bits=bits))
    first, last = (
        session.bench((device,), stack) for device in (devices[0], devices[-1])
    )
    calls = (one.call("decode", shape), first.call("decode", shape))
    with closing(Ring((first, last), "decode", shape)) as ring:
        back_to_back, in_pipeline = time_dispatch(
            *calls,
            num_stacked,
            lambda rounds: ring.run_rounds(1, rounds),
            ring.hop,
            session.options.stopwatch,
        )
    for bench in (one, first, last):
        bench.free()
    session.journal.add(
        DispatchTime(
            kind=kind,
            seconds=in_pipeline.seconds,
            spread=in_pipeline.spread,
            back_to_back_seconds=min(back_to_back.seconds, in_pipeline.seconds),
        )
    )
    session.on_row(f"{kind}: dispatch overhead", 1.0)


def measured_overhead(session: Session, kind: str) -> DispatchTime | None:
    """Returns the journal's dispatch overhead of a kind; None if it is missing."""
    rows = session.journal.measurements.dispatch
    return next((row for row in rows if row.kind == kind), None)


def time_dispatch(
    one_layer: Callable[[], object],
    stack: Callable[[], object],
    num_stacked: int,
    run_rounds: Callable[[int], object],
    hop: Callable[[], object],
    stopwatch: Stopwatch,
) -> tuple[Timing, Timing]:
    """Times the overhead of back-to-back calls, and in a pipeline, by this module's formulas.

    Every repeat times all of their terms, so that what slows the machine for a while slows
    all of them.

    Args:
        one_layer: Function that runs one layer.
        stack: Function that runs `num_stacked` layers in one call.
        num_stacked: Number n of layers, at least 2.
        run_rounds: Function that sends a micro-batch through two such stacks a number of
            times.
        hop: Function that makes the transfer from the first stack to the second.
        stopwatch: Timer that also waits between repeats, and before a hop.
    """

    def back_to_back_seconds(call: Callable[[], object]) -> float:
        # The first ones find threads asleep and caches cold.
        stopwatch.mean_s(call, for_s=WARM_UP_S)
        return stopwatch.mean_s(call, for_s=WARM_UP_S)

    back_to_back, in_pipeline = [], []
    began_s = stopwatch.clock()
    while len(in_pipeline) < MIN_REPEATS or (
        len(in_pipeline) < MAX_REPEATS and stopwatch.clock() - began_s < _MAX_S
    ):
        stopwatch.sleep(_BETWEEN_REPEATS_S)
        one_s, stack_s = back_to_back_seconds(one_layer), back_to_back_seconds(stack)
        stopwatch.sleep(STAGE_PAUSE_S)
        hop_s = stopwatch.once_s(hop)
        # The first one finds all threads asleep, as no later one does.
        run_rounds(1)
        rounds_s = stopwatch.once_s(lambda: run_rounds(_ROUNDS_PER_REPEAT))
        round_s = rounds_s / _ROUNDS_PER_REPEAT
        back_to_back.append((num_stacked * one_s - stack_s) / (num_stacked - 1))
        in_pipeline.append(back_to_back[-1] + (round_s - 2 * stack_s - hop_s) / 2)
    return summary(back_to_back), summary(in_pipeline)
