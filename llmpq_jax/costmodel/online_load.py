"""Serving of requests that arrive at any time, simulated event by event.

The rules are those of `runtime/online_scheduler.py`. Sequences take free slots in the order
of their arrival. A group has one micro-batch in the pipeline, a chunk of a prompt or a decode
step, in turns; other groups fill the other stages. Stages and hops serve micro-batches in the
order in which they come.

While k stages of a shared machine are busy, each computes at 1 / (1 + s (k − 1)) of its speed,
with s the serial fraction (Amdahl, 1967; `pipeline_schedule`).

Prompts share no prefix, nobody leaves, and what the server does besides is not counted.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from jaxtyping import Bool, Float

from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.schema.buckets import ONLINE_STEPS_PER_CALL, cut_prompt
from llmpq_jax.schema.measurements import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlinePipeline:
    """What a plan takes for each micro-batch when it serves requests as they come.

    Attributes:
        num_groups: Number of decode groups.
        decode_rows: Rows of each.
        num_slots: Slots of each row's cache, in tokens.
        first_chunk_s: Seconds of a chunk at a prompt's start on each stage, by its tokens;
            they are all lengths that chunks have.
        later_chunk_s: Seconds of one behind others, which attends to the whole cache.
        chunk_hop_s: Seconds of sending one to the next stage, of each hop.
        dispatch_s: Dispatch overhead of each stage's decode call.
        step_s: Seconds of each stage's decode step besides, given the mean number of
            cached tokens of the rows.
        step_hop_s: Seconds of sending a decode step to the next stage, of each hop.
        hosts: Stages that share a machine.
        max_steps: Maximum decode steps per call of a stage that holds the whole model.
    """

    num_groups: int
    decode_rows: int
    num_slots: int
    first_chunk_s: Mapping[int, Sequence[float]]
    later_chunk_s: Mapping[int, Sequence[float]]
    chunk_hop_s: Mapping[int, Sequence[float]]
    dispatch_s: Sequence[float]
    step_s: Callable[[float], Sequence[float]]
    step_hop_s: Sequence[float]
    hosts: Sequence[Host] = ()
    max_steps: int = ONLINE_STEPS_PER_CALL

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.dispatch_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request of a load.

    Attributes:
        at_s: Time of its arrival.
        prompt: Tokens of its prompt.
        new_tokens: Tokens of its reply.
    """

    at_s: float
    prompt: int
    new_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedTimes:
    """Times of each request of a load, N of them, in the order of arrival.

    Attributes:
        waiting_s: Seconds from the arrival until it had a slot.
        first_token_s: Seconds from the arrival to the first token.
        token_s: Seconds per token after the first; NaN for one of a single token.
        request_s: Seconds from the arrival to the last token.
        found_full: Whether no slot was free when it came.
    """

    waiting_s: Float[np.ndarray, " N"]
    first_token_s: Float[np.ndarray, " N"]
    token_s: Float[np.ndarray, " N"]
    request_s: Float[np.ndarray, " N"]
    found_full: Bool[np.ndarray, " N"]


def random_arrivals(
    lengths: Sequence[tuple[int, int]],
    *,
    arrivals_per_s: float,
    num_requests: int,
    seed: int = 0,
) -> list[Arrival]:
    """Returns a Poisson stream of requests whose lengths are drawn from pairs.

    Streams of two rates differ by a factor in time alone, so that plans and rates are
    compared on the same requests.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(lengths), size=num_requests)
    at_s = np.cumsum(generator.exponential(1.0, size=num_requests)) / arrivals_per_s
    return [
        Arrival(at_s=float(at), prompt=lengths[index][0], new_tokens=lengths[index][1])
        for at, index in zip(at_s, chosen, strict=True)
    ]


def serve_arrivals(
    pipeline: OnlinePipeline, arrivals: Sequence[Arrival]
) -> ServedTimes:
    """Simulates a pipeline that is idle at first and serves all requests."""
    return _Simulation(pipeline, arrivals).run()


@dataclass(slots=True, eq=False)
class _Row:
    """A request that has a slot."""

    number: int
    group: int
    num_cached: int
    num_left: int
    chunks: deque[tuple[int, int]]


@dataclass(slots=True, eq=False)
class _Group:
    """Rows of one decode group: those that decode, and those with prompts left."""

    decoding: list[_Row] = field(default_factory=list)
    prompts: deque[_Row] = field(default_factory=deque)
    is_busy: bool = False
    # Of all rows; prompts count whole from the start, as in the scheduler.
    num_cached: int = 0


@dataclass(slots=True, eq=False)
class _MicroBatch:
    """Work of one group on its way: seconds on each stage and hop, and what it is."""

    group: int
    phase: Phase
    stages_s: Sequence[float]
    hops_s: Sequence[float]
    row: _Row | None
    num_steps: int = 1


class _Stage:
    """A stage: what waits for it, and what is left of its micro-batch."""

    __slots__ = ("current", "host", "left_s", "rate", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_MicroBatch] = deque()
        self.current: _MicroBatch | None = None
        self.left_s = 0.0
        self.rate = 1.0
        self.host: _SharedHost | None = None


@dataclass(slots=True, eq=False)
class _SharedHost:
    """Stages of one machine; a mesh counts once for each of its devices."""

    stages: list[_Stage]
    serial: Mapping[Phase, float]

    def share(self) -> None:
        """Sets the speeds of the stages that are busy now."""
        busy = [stage for stage in self.stages if stage.current is not None]
        for stage in busy:
            assert stage.current is not None
            serial = self.serial[stage.current.phase]
            stage.rate = 1.0 / (1.0 + serial * (len(busy) - 1))


class _Simulation:
    """The state of a pipeline that serves a load."""

    def __init__(self, pipeline: OnlinePipeline, arrivals: Sequence[Arrival]) -> None:
        self._pipeline = pipeline
        self._arrivals = arrivals
        self._sizes = tuple(sorted(pipeline.first_chunk_s))
        self._now_s = 0.0
        self._num_in_flight = 0
        self._inbox: deque[int] = deque()
        self._waiting: deque[int] = deque()
        self._groups = [_Group() for _ in range(pipeline.num_groups)]
        # The group of each free slot, in the order in which they became free.
        self._free = [
            group
            for group in range(pipeline.num_groups)
            for _ in range(pipeline.decode_rows)
        ]
        self._stages = [_Stage() for _ in range(pipeline.num_stages)]
        for host in pipeline.hosts:
            own = _SharedHost(
                stages=[self._stages[member] for member in host.members],
                serial={"prefill": host.prefill_serial, "decode": host.decode_serial},
            )
            for stage in own.stages:
                stage.host = own
        self._hop_free_s = [0.0] * (pipeline.num_stages - 1)
        # When each stage has done what it was given, where no machine is shared.
        self._stage_free_s = [0.0] * pipeline.num_stages
        # Arrivals, without a micro-batch; micro-batches that reach a stage; and results,
        # beyond the last stage.
        self._events: list[tuple[float, int, _MicroBatch | None, int]] = []
        self._order = count()
        shape = (len(arrivals),)
        self._admitted_s, self._first_s, self._last_s = (
            np.full(shape, math.nan) for _ in range(3)
        )
        self._found_full = np.zeros(shape, bool)

    def run(self) -> ServedTimes:
        for number, arrival in enumerate(self._arrivals):
            heapq.heappush(self._events, (arrival.at_s, next(self._order), None, 0))
            assert not number or arrival.at_s >= self._arrivals[number - 1].at_s
        next_arrival = count()
        while True:
            stage_number = self._next_to_end()
            event_s = self._events[0][0] if self._events else math.inf
            end_s = math.inf
            if stage_number is not None:
                stage = self._stages[stage_number]
                end_s = self._now_s + stage.left_s / stage.rate
            if event_s == end_s == math.inf:
                break
            if event_s <= end_s:
                _, _, micro_batch, number = heapq.heappop(self._events)
                self._advance(event_s)
                if micro_batch is None:
                    self._inbox.append(next(next_arrival))
                    # The scheduler looks when a result comes; or at once, if none will,
                    # and finds all that came at the same time.
                    if not (self._num_in_flight or self._arrives_now()):
                        self._send_ready()
                else:
                    self._enter(micro_batch, number)
            else:
                assert stage_number is not None
                self._advance(end_s)
                self._leave(stage_number)
        at_s = np.array([arrival.at_s for arrival in self._arrivals])
        later = np.array([arrival.new_tokens - 1 for arrival in self._arrivals])
        with np.errstate(invalid="ignore", divide="ignore"):
            token_s = np.where(
                later > 0, (self._last_s - self._first_s) / later, math.nan
            )
        return ServedTimes(
            waiting_s=self._admitted_s - at_s,
            first_token_s=self._first_s - at_s,
            token_s=token_s,
            request_s=self._last_s - at_s,
            found_full=self._found_full,
        )

    def _arrives_now(self) -> bool:
        """Whether one more request arrives at this time."""
        if not self._events:
            return False
        at_s, _, micro_batch, _ = self._events[0]
        return micro_batch is None and at_s <= self._now_s

    def _next_to_end(self) -> int | None:
        """Returns the stage whose micro-batch ends first."""
        best, best_s = None, math.inf
        for number, stage in enumerate(self._stages):
            if stage.current is not None:
                left_s = stage.left_s / stage.rate
                if left_s < best_s:
                    best, best_s = number, left_s
        return best

    def _advance(self, to_s: float) -> None:
        passed_s = to_s - self._now_s
        self._now_s = to_s
        for stage in self._stages:
            if stage.current is not None:
                stage.left_s = max(0.0, stage.left_s - passed_s * stage.rate)

    def _enter(self, micro_batch: _MicroBatch, number: int) -> None:
        """Adds a micro-batch to those that a stage has to do; behind the last is its result."""
        if number == self._pipeline.num_stages:
            self._num_in_flight -= 1
            self._receive(micro_batch)
            return
        stage = self._stages[number]
        stage.waiting.append(micro_batch)
        if stage.current is None:
            self._start(number)

    def _start(self, number: int) -> None:
        """Lets a stage begin with its next micro-batch, if there is one."""
        stage = self._stages[number]
        stage.current = stage.waiting.popleft() if stage.waiting else None
        if stage.current is not None:
            stage.left_s, stage.rate = stage.current.stages_s[number], 1.0
        if stage.host is not None:
            stage.host.share()

    def _leave(self, number: int) -> None:
        """Sends a stage's micro-batch on."""
        micro_batch = self._stages[number].current
        assert micro_batch is not None
        self._start(number)
        if number == self._pipeline.num_stages - 1:
            self._enter(micro_batch, number + 1)
            return
        end_s = self._through_hop(micro_batch, number, self._now_s)
        heapq.heappush(
            self._events, (end_s, next(self._order), micro_batch, number + 1)
        )

    def _through_hop(
        self, micro_batch: _MicroBatch, number: int, ready_s: float
    ) -> float:
        """Sends a micro-batch to the next stage; returns when it is there."""
        start_s = max(ready_s, self._hop_free_s[number])
        self._hop_free_s[number] = start_s + micro_batch.hops_s[number]
        return self._hop_free_s[number]

    def _through_all(self, micro_batch: _MicroBatch) -> float:
        """Sends a micro-batch through all stages; returns when it leaves the last.

        Where no machine is shared nothing that comes later changes it, since stages and
        hops keep the order in which micro-batches come.
        """
        end_s = self._now_s
        for number, own_s in enumerate(micro_batch.stages_s):
            end_s = max(end_s, self._stage_free_s[number]) + own_s
            self._stage_free_s[number] = end_s
            if number < len(micro_batch.hops_s):
                end_s = self._through_hop(micro_batch, number, end_s)
        return end_s

    def _receive(self, result: _MicroBatch) -> None:
        """Gives tokens to their requests, and sends what is ready."""
        group = self._groups[result.group]
        group.is_busy = False
        if result.row is None:
            self._add_tokens(group, result.num_steps)
        elif not result.row.chunks:
            row = result.row
            self._first_s[row.number] = self._now_s
            row.num_left -= 1
            group.decoding.append(row)
            self._release_finished(group)
        self._send_ready(after=result)

    def _add_tokens(self, group: _Group, num_steps: int) -> None:
        for row in group.decoding:
            row.num_left -= num_steps
            row.num_cached += num_steps
        group.num_cached += num_steps * len(group.decoding)
        self._release_finished(group)

    def _release_finished(self, group: _Group) -> None:
        finished = [row for row in group.decoding if row.num_left <= 0]
        for row in finished:
            self._last_s[row.number] = self._now_s
            self._free.append(row.group)
            group.num_cached -= row.num_cached
            group.decoding.remove(row)

    def _send_ready(self, after: _MicroBatch | None = None) -> None:
        """Fills free slots, and sends what groups without a micro-batch have ready."""
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        while self._waiting and self._free:
            self._admit(self._waiting.popleft())
        self._found_full[list(self._waiting)] = True
        for number, group in enumerate(self._groups):
            if not group.is_busy:
                is_after = after is not None and after.group == number
                self._send_next(number, after if is_after else None)

    def _admit(self, number: int) -> None:
        """Gives a request a slot of the group with the most free ones."""
        num_free = [0] * len(self._groups)
        for group in self._free:
            num_free[group] += 1
        group = max(self._free, key=num_free.__getitem__)
        self._free.remove(group)
        arrival = self._arrivals[number]
        self._admitted_s[number] = self._now_s
        chunks = cut_prompt(
            0, arrival.prompt, sizes=self._sizes, num_slots=self._pipeline.num_slots
        )
        row = _Row(number, group, arrival.prompt, arrival.new_tokens, deque(chunks))
        self._groups[group].prompts.append(row)
        self._groups[group].num_cached += row.num_cached

    def _send_next(self, number: int, previous: _MicroBatch | None) -> None:
        """Sends a group's next chunk or decode step; they take turns."""
        group = self._groups[number]
        is_chunk_next = previous is None or previous.row is None or not group.decoding
        if group.prompts and is_chunk_next:
            self._send(self._next_chunk(number))
        elif group.decoding:
            self._send(self._next_steps(number))

    def _next_chunk(self, number: int) -> _MicroBatch:
        prompts = self._groups[number].prompts
        row = prompts[0]
        first, size = row.chunks.popleft()
        if not row.chunks:
            prompts.popleft()
        plan = self._pipeline
        seconds = plan.later_chunk_s if first else plan.first_chunk_s
        return _MicroBatch(
            number, "prefill", seconds[size], plan.chunk_hop_s[size], row
        )

    def _next_steps(self, number: int) -> _MicroBatch:
        group, plan = self._groups[number], self._pipeline
        num_steps = 1
        # A stage that holds the whole model takes several steps in a call.
        if plan.num_stages == 1 and not group.prompts:
            num_left = [row.num_left for row in group.decoding]
            needed = min(num_left) if self._waiting else max(num_left)
            num_steps = min(plan.max_steps, needed)
        step_s = plan.step_s(group.num_cached / plan.decode_rows)
        stages_s = [
            dispatch_s + num_steps * own_s
            for dispatch_s, own_s in zip(plan.dispatch_s, step_s, strict=True)
        ]
        return _MicroBatch(
            number, "decode", stages_s, plan.step_hop_s, None, num_steps=num_steps
        )

    def _send(self, micro_batch: _MicroBatch) -> None:
        self._groups[micro_batch.group].is_busy = True
        self._num_in_flight += 1
        if self._pipeline.hosts:
            self._enter(micro_batch, 0)
            return
        end_s = self._through_all(micro_batch)
        behind = self._pipeline.num_stages
        heapq.heappush(self._events, (end_s, next(self._order), micro_batch, behind))
