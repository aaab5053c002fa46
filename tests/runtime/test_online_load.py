"""The simulated load against the scheduler itself, on an engine whose clock is not real."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import accumulate, count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.online_load import (
    Arrival,
    OnlinePipeline,
    random_arrivals,
    serve_arrivals,
)
from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.inbox import Inbox
from llmpq_jax.runtime.online_scheduler import OnlineScheduler
from llmpq_jax.runtime.request import Request
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.stage.message import Message
from tests.support.hash_engine import NoText

NUM_SLOTS = 1024
CHUNKS = (32, 128, 512)


@dataclass
class VirtualEngine:
    """Stages that take the seconds of a pipeline on a clock that jumps from result to result."""

    plan: OnlinePipeline
    arrivals: list[Arrival]
    inbox: Inbox
    sequences: list[Sequence]
    now_s: float = 0.0
    results: list[tuple[float, int, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.supports_multi_step = self.plan.num_stages == 1
        self.stage_free_s = [0.0] * self.plan.num_stages
        self.hop_free_s = [0.0] * (self.plan.num_stages - 1)
        self.coming = list(range(len(self.arrivals)))
        self.order = count()

    def allocate(self, **_) -> None:
        pass

    def submit(self, message: Message) -> None:
        plan = self.plan
        if message.phase == "prefill":
            size = message.chunk_tokens
            chunk_s = (
                plan.later_chunk_s if message.first_position else plan.first_chunk_s
            )
            stages_s, hops_s = chunk_s[size], plan.chunk_hop_s[size]
        else:
            step_s = plan.step_s(float(np.mean(message.slot_B)))
            stages_s = [
                dispatch_s + message.num_steps * own_s
                for dispatch_s, own_s in zip(plan.dispatch_s, step_s, strict=True)
            ]
            hops_s = plan.step_hop_s
        end_s = self.now_s
        for stage, own_s in enumerate(stages_s):
            end_s = self.stage_free_s[stage] = (
                max(end_s, self.stage_free_s[stage]) + own_s
            )
            if stage < len(hops_s):
                start_s = max(end_s, self.hop_free_s[stage])
                end_s = self.hop_free_s[stage] = start_s + hops_s[stage]
        heapq.heappush(self.results, (end_s, next(self.order), message))

    def next_result(self) -> Message:
        end_s, _, message = heapq.heappop(self.results)
        self.let_arrive(end_s)
        self.now_s = end_s
        rows = len(message.slot_B)
        return replace(
            message,
            payload=np.zeros(rows, np.int32),
            tokens=None
            if message.phase == "prefill"
            else np.zeros((message.num_steps, rows), np.int32),
        )

    def let_arrive(self, until_s: float) -> None:
        while self.coming and self.arrivals[self.coming[0]].at_s <= until_s:
            self.inbox.add(self.sequences[self.coming.pop(0)])


class _ArrivingInbox(Inbox):
    """An inbox that waits by setting the clock forward to the next arrival."""

    engine: VirtualEngine

    def wait(self, timeout_s: float) -> None:
        del timeout_s
        engine = self.engine
        if engine.coming:
            engine.now_s = engine.arrivals[engine.coming[0]].at_s
            engine.let_arrive(engine.now_s)
        else:
            self.close()


def served_by_scheduler(
    plan: OnlinePipeline, arrivals: list[Arrival]
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds from each arrival to its first and to its last token."""
    # Prompts that differ from the first token on share no prefix.
    sequences = [
        Sequence(
            Request(
                token_ids=(number,) * arrival.prompt,
                max_new_tokens=arrival.new_tokens,
                ignores_eos=True,
            ),
            eos_ids=set(),
            decoder=NoText(),
        )
        for number, arrival in enumerate(arrivals)
    ]
    inbox = _ArrivingInbox()
    engine = VirtualEngine(plan, arrivals, inbox, sequences)
    inbox.engine = engine
    first_s = np.zeros(len(arrivals))
    last_s = np.zeros(len(arrivals))
    numbers = {id(sequence): number for number, sequence in enumerate(sequences)}

    def on_progress(sequence: Sequence) -> None:
        number = numbers[id(sequence)]
        after_s = engine.now_s - arrivals[number].at_s
        if sequence.token_ids and not first_s[number]:
            first_s[number] = after_s
        if sequence.is_finished and not last_s[number]:
            last_s[number] = after_s

    scheduler = OnlineScheduler(
        engine=engine,  # pyright: ignore[reportArgumentType]
        shape=BatchShape(
            num_groups=plan.num_groups,
            prefill_rows=1,
            decode_rows=plan.decode_rows,
            num_tokens=plan.num_slots,
            num_slots=plan.num_slots,
            chunk_tokens=512,
        ),
        inbox=inbox,
        head_inputs=HeadInputs(vocabulary_size=1000, num_slots=plan.num_slots),
        max_steps=plan.max_steps,
        on_progress=on_progress,
    )
    assert len(list(scheduler.run())) == len(arrivals)
    return first_s, last_s


_SECONDS = st.floats(0.001, 1.0)


@st.composite
def pipelines(draw: st.DrawFn) -> OnlinePipeline:
    num_stages = draw(st.integers(1, 4))

    def each(number: int) -> list[float]:
        return draw(st.lists(_SECONDS, min_size=number, max_size=number))

    base_s, by_context_s = each(num_stages), each(num_stages)
    return OnlinePipeline(
        num_groups=draw(st.integers(1, 4)),
        decode_rows=draw(st.integers(1, 4)),
        num_slots=NUM_SLOTS,
        first_chunk_s={size: each(num_stages) for size in CHUNKS},
        later_chunk_s={size: each(num_stages) for size in CHUNKS},
        chunk_hop_s={size: each(num_stages - 1) for size in CHUNKS},
        dispatch_s=each(num_stages),
        step_s=lambda cached: [
            base + cached / 100 * more
            for base, more in zip(base_s, by_context_s, strict=True)
        ],
        step_hop_s=each(num_stages - 1),
        max_steps=draw(st.sampled_from([1, 4, 8])),
    )


@st.composite
def loads(draw: st.DrawFn) -> list[Arrival]:
    gaps_s = draw(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20))
    return [
        Arrival(
            at_s=at_s,
            prompt=draw(st.integers(1, 700)),
            new_tokens=draw(st.integers(1, 40)),
        )
        for at_s in accumulate(gaps_s)
    ]


@given(pipelines(), loads())
def test_requests_wait_as_long_as_in_the_scheduler(
    plan: OnlinePipeline, arrivals: list[Arrival]
) -> None:
    first_s, last_s = served_by_scheduler(plan, arrivals)
    found = serve_arrivals(plan, arrivals)
    assert found.first_token_s == pytest.approx(first_s, abs=1e-6)
    assert found.request_s == pytest.approx(last_s, abs=1e-6)
    assert (found.waiting_s <= found.first_token_s).all()


@given(pipelines(), loads())
def test_machines_of_their_own_are_as_if_none_were_shared(
    plan: OnlinePipeline, arrivals: list[Arrival]
) -> None:
    alone = [
        Host(members=(stage,), prefill_serial=0.7, decode_serial=0.4)
        for stage in range(plan.num_stages)
    ]
    found = serve_arrivals(replace(plan, hosts=alone), arrivals)
    expected = serve_arrivals(plan, arrivals)
    assert found.request_s == pytest.approx(expected.request_s, abs=1e-6)


def _two_equal_stages(serial: float) -> OnlinePipeline:
    """Two groups that keep two stages of one machine busy all the time."""
    return OnlinePipeline(
        num_groups=2,
        decode_rows=1,
        num_slots=NUM_SLOTS,
        first_chunk_s=dict.fromkeys(CHUNKS, (1.0, 1.0)),
        later_chunk_s=dict.fromkeys(CHUNKS, (1.0, 1.0)),
        chunk_hop_s=dict.fromkeys(CHUNKS, (0.0,)),
        dispatch_s=(0.0, 0.0),
        step_s=lambda _: (1.0, 1.0),
        step_hop_s=(0.0,),
        hosts=(Host(members=(0, 1), prefill_serial=serial, decode_serial=serial),),
    )


@pytest.mark.parametrize("serial", [0.0, 0.3, 1.0])
def test_two_busy_stages_of_a_machine_do_the_work_of_c_devices(serial: float) -> None:
    arrivals = [Arrival(at_s=0.0, prompt=8, new_tokens=50) for _ in range(2)]
    found = serve_arrivals(_two_equal_stages(serial), arrivals)
    # The second is a step behind the first: for the first and the last step one is busy.
    assert found.request_s.max() == pytest.approx(2 + 99 * (1 + serial), rel=1e-6)


def test_waiting_is_that_of_a_queue_with_one_server() -> None:
    """M/D/1: (Pollaczek and Khinchine) a mean wait of ρ S / (2 (1 − ρ))."""
    plan = OnlinePipeline(
        num_groups=1,
        decode_rows=1,
        num_slots=NUM_SLOTS,
        first_chunk_s=dict.fromkeys(CHUNKS, (1.0,)),
        later_chunk_s=dict.fromkeys(CHUNKS, (1.0,)),
        chunk_hop_s=dict.fromkeys(CHUNKS, ()),
        dispatch_s=(0.0,),
        step_s=lambda _: (0.0,),
        step_hop_s=(),
    )
    arrivals = random_arrivals([(8, 1)], arrivals_per_s=0.6, num_requests=40_000)
    found = serve_arrivals(plan, arrivals)
    assert found.waiting_s.mean() == pytest.approx(0.6 / (2 * 0.4), rel=0.05)
    assert np.isnan(found.token_s).all()
