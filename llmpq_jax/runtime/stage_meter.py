"""How busy each stage of a server is, and what its work takes next to what was predicted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from llmpq_jax.schema.strategy import Stage, Strategy
from llmpq_jax.stage.message import StageEvent

# Seconds that shares and rates are of.
WINDOW_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageReading:
    """What a stage did in the last seconds, and since it was loaded.

    Attributes:
        stage: The stage as the strategy has it.
        busy_total_s: Seconds of work since it was loaded.
        busy_share: Share of the last seconds in which it worked, 0 to 1.
        queued_s: Mean seconds that a message waited for it.
        decode_s: Mean seconds of a decode step of one micro-batch; None if there was none.
        prefill_s: Mean seconds of a chunk of a prompt; None if there was none.
        prefill_tokens_per_s: Tokens of prompts per second, padding included.
    """

    stage: Stage
    busy_total_s: float
    busy_share: float
    queued_s: float
    decode_s: float | None
    prefill_s: float | None
    prefill_tokens_per_s: float

    @property
    def predicted_decode_s(self) -> float | None:
        """Seconds of a decode step as planned; None of a plan without predictions."""
        predicted = self.stage.predicted
        return None if predicted is None else predicted.decode_s


class StageMeter:
    """Adds up the events of stages."""

    def __init__(self, strategy: Strategy) -> None:
        """Starts at zero."""
        self._stages = strategy.stages
        self._started_s = time.perf_counter()
        self._recent: list[deque[StageEvent]] = [deque() for _ in self._stages]
        self._busy_total_s = [0.0] * len(self._stages)
        # Times at which tokens were generated, and their number.
        self._tokens: deque[tuple[float, int]] = deque()

    def add(self, events: Iterable[StageEvent]) -> None:
        """Adds events, those of a stage in order."""
        for event in events:
            self._recent[event.stage].append(event)
            self._busy_total_s[event.stage] += event.ended_s - event.started_s
        self._forget(time.perf_counter() - WINDOW_S)

    def add_tokens(self, count: int) -> None:
        """Counts tokens that were generated now."""
        now_s = time.perf_counter()
        self._tokens.append((now_s, count))
        while self._tokens[0][0] < now_s - WINDOW_S:
            self._tokens.popleft()

    def tokens_per_s(self) -> float:
        """Returns the tokens that were generated per second."""
        now_s = time.perf_counter()
        start_s = max(self._started_s, now_s - WINDOW_S)
        count = sum(n for at_s, n in list(self._tokens) if at_s > start_s)
        return count / max(now_s - start_s, 1e-3)

    def readings(self) -> tuple[StageReading, ...]:
        """Returns what each stage did."""
        now_s = time.perf_counter()
        start_s = max(self._started_s, now_s - WINDOW_S)
        return tuple(
            self._reading(number, start_s, max(now_s - start_s, 1e-3))
            for number in range(len(self._stages))
        )

    def _reading(self, number: int, start_s: float, window_s: float) -> StageReading:
        # Another thread may add events meanwhile.
        events = [each for each in list(self._recent[number]) if each.ended_s > start_s]
        chunks = [event for event in events if event.phase == "prefill"]
        steps = [event for event in events if event.phase == "decode"]
        busy_s = sum(each.ended_s - max(each.started_s, start_s) for each in events)
        num_steps = sum(event.num_steps for event in steps)
        return StageReading(
            stage=self._stages[number],
            busy_total_s=self._busy_total_s[number],
            busy_share=min(1.0, busy_s / window_s),
            queued_s=_mean([each.started_s - each.received_s for each in events])
            or 0.0,
            decode_s=_seconds(steps) / num_steps if num_steps else None,
            prefill_s=_seconds(chunks) / len(chunks) if chunks else None,
            prefill_tokens_per_s=sum(e.tokens * e.rows for e in chunks) / window_s,
        )

    def _forget(self, before_s: float) -> None:
        for events in self._recent:
            while events and events[0].ended_s < before_s:
                events.popleft()


def _seconds(events: Iterable[StageEvent]) -> float:
    return sum(event.ended_s - event.started_s for event in events)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
