"""The fastest plan for requests that arrive at random, under limits on how long they wait.

The search proves the plan of a batch: of a number of slots that are refilled without pause,
which is a closed queueing network. A load that arrives by itself keeps a mean number of slots
busy (Little's law), so the plans worth trying are those of different numbers of slots and sizes
of decode groups. Each is simulated under the load (`costmodel/online_load.py`), with the same
requests at the same times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.costmodel.online_load import (
    OnlinePipeline,
    random_arrivals,
    serve_arrivals,
)
from llmpq_jax.errors import InfeasibleError, TimeLimitError
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.online.lengths import Pair, online_workload
from llmpq_jax.planner.online.stage_seconds import online_pipeline
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.schema.online_load import OnlineLoad, OnlinePrediction
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import counted, format_seconds

# Requests of a simulation, and those of them at its start that are not counted.
_NUM_REQUESTS = 600
_NUM_WARM_UP = 60
_MAX_SLOTS = 256
# Groups beyond twice the devices find every stage busy.
_GROUPS_PER_DEVICE = 2
# Steps in which the largest rate is bracketed and bisected.
_NUM_BISECTIONS = 6
_MIN_SOLVE_S = 1.0
# Plans of which it is said up to which rate they keep the limits.
_NUM_NEAREST = 3
# So few that no request meets another.
_ALONE_PER_S = 1e-6
# Below this share of the arrivals a plan is not simulated: its queue only grows.
_LEAST_CAPACITY = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedPlan:
    """A plan and what a simulation says of it.

    Attributes:
        strategy: The plan of the closed batch.
        pipeline: Seconds of the plan's micro-batches.
        figures: Its predicted times under the load.
        excess: Largest ratio of a time to its limit; at most 1 if all are kept, and 0
            without limits.
        is_full: Whether a request found no free slot.
    """

    strategy: Strategy
    pipeline: OnlinePipeline
    figures: OnlinePrediction
    excess: float
    is_full: bool


def plan_online(
    problem: PlanRequest,
    load: OnlineLoad,
    pairs: Sequence[Pair],
    *,
    plan: Callable[[PlanRequest, float], Strategy],
    time_limit_s: float,
    on_plan: Callable[[SimulatedPlan], None] = lambda _: None,
) -> Strategy:
    """Finds the plan with the least mean time of a request among those that keep the limits.

    Args:
        problem: The planning problem; its workload and its micro-batches are set here.
        load: The load and the limits.
        pairs: Prompt and reply lengths that requests have, in tokens.
        plan: Solves a problem within a number of seconds.
        time_limit_s: Seconds for all problems together.
        on_plan: Called with each plan that was simulated.

    Raises:
        InfeasibleError: No plan fits the devices, or none keeps the limits.
        TimeLimitError: No plan was found in time.
    """
    found: list[SimulatedPlan] = []
    too_slow: list[Strategy] = []
    failure: Exception | None = None
    choices = list(_choices(problem, load))
    deadline_s = time.monotonic() + time_limit_s
    last_batch, without_plan = choices[-1][0], 0
    for done, (batch, decode) in enumerate(choices):
        # What needs no less memory than what had no plan has none either.
        if batch > last_batch or (without_plan and decode >= without_plan):
            continue
        request = replace(
            problem,
            workload=online_workload(pairs, batch=batch),
            prefill=1,
            decode=decode,
        )
        left_s = deadline_s - time.monotonic()
        share_s = max(_MIN_SOLVE_S, left_s / (len(choices) - done))
        try:
            strategy = plan(request, share_s)
        except InfeasibleError as reason:
            failure, without_plan = reason, decode
            continue
        except TimeLimitError as reason:
            failure = failure or reason
            continue
        if _served_per_s(strategy) < _LEAST_CAPACITY * load.arrivals_per_s:
            too_slow.append(strategy)
            continue
        simulated = _simulated(request, strategy, load, pairs)
        found.append(simulated)
        on_plan(simulated)
        if not simulated.is_full:
            # More slots only make each step longer.
            last_batch = batch
    if not found:
        if too_slow:
            raise InfeasibleError(_too_many(too_slow, load))
        assert failure is not None, "at least one problem was tried"
        raise failure
    kept = [each for each in found if each.excess <= 1]
    if not kept:
        raise InfeasibleError(_no_plan(found, load, pairs))
    best = min(kept, key=lambda each: each.figures.request_s)
    return _with_figures(best, load, pairs, num_plans=len(found))


def _choices(problem: PlanRequest, load: OnlineLoad) -> Iterator[tuple[int, int]]:
    """Yields numbers of slots, with the sizes of decode groups that are tried for each.

    Both increase, and so does the memory that is needed.
    """
    num_devices = sum(
        each.device.use != "never" for each in problem.cluster.node_devices
    )
    pinned = problem.decode
    batches = [(pinned or 1) * 2**power for power in range(_MAX_SLOTS.bit_length())]
    for batch in [load.batch] if load.batch is not None else batches:
        if pinned is not None:
            yield batch, pinned
            continue
        for decode in range(1, batch + 1):
            num_groups = batch // decode
            if batch % decode == 0 and num_groups <= _GROUPS_PER_DEVICE * num_devices:
                yield batch, decode


def _served_per_s(strategy: Strategy) -> float:
    """Returns the requests per second that a plan serves if there are always more."""
    assert strategy.predicted is not None, "the search predicts every plan"
    return strategy.workload.num_prompts / strategy.predicted.latency_s


def _simulated(
    request: PlanRequest, strategy: Strategy, load: OnlineLoad, pairs: Sequence[Pair]
) -> SimulatedPlan:
    pipeline = online_pipeline(make_problem(request), strategy)
    figures, is_full = _figures(pipeline, load, pairs, load.arrivals_per_s)
    return SimulatedPlan(
        strategy=strategy,
        pipeline=pipeline,
        figures=figures,
        excess=_excess(figures, load),
        is_full=is_full,
    )


def _figures(
    pipeline: OnlinePipeline,
    load: OnlineLoad,
    pairs: Sequence[Pair],
    arrivals_per_s: float,
) -> tuple[OnlinePrediction, bool]:
    """Simulates a rate; returns the times of requests, and whether any found no free slot."""
    arrivals = random_arrivals(
        pairs, arrivals_per_s=arrivals_per_s, num_requests=_NUM_REQUESTS
    )
    times = serve_arrivals(pipeline, arrivals)
    counted = slice(_NUM_WARM_UP, None)
    token_s = times.token_s[counted]
    token_s = token_s[~np.isnan(token_s)]
    served_s = times.request_s - times.waiting_s
    first_s, last_s = arrivals[_NUM_WARM_UP].at_s, arrivals[-1].at_s
    figures = OnlinePrediction(
        arrivals_per_s=arrivals_per_s,
        percentile=load.percentile,
        ttft_s=float(np.percentile(times.first_token_s[counted], load.percentile)),
        tpot_s=float(np.percentile(token_s, load.percentile)) if len(token_s) else 0.0,
        request_s=float(times.request_s[counted].mean()),
        busy_rows=float(served_s[counted].sum() / (last_s - first_s)),
        max_arrivals_per_s=arrivals_per_s,
        num_requests=_NUM_REQUESTS - _NUM_WARM_UP,
    )
    return figures, bool(times.found_full[counted].any())


def _excess(figures: OnlinePrediction, load: OnlineLoad) -> float:
    """Returns the largest ratio of a time to its limit."""
    ratios = [0.0]
    if load.max_ttft_s is not None:
        ratios.append(figures.ttft_s / load.max_ttft_s)
    if load.max_tpot_s is not None:
        ratios.append(figures.tpot_s / load.max_tpot_s)
    return max(ratios)


def _largest_rate(
    pipeline: OnlinePipeline,
    load: OnlineLoad,
    pairs: Sequence[Pair],
    *,
    lower_per_s: float,
    upper_per_s: float,
) -> float:
    """Returns the largest rate at which the limits are kept, between two rates.

    At the lower one they are, or it is 0.
    """
    for _ in range(_NUM_BISECTIONS):
        middle = (lower_per_s + upper_per_s) / 2
        figures, _ = _figures(pipeline, load, pairs, middle)
        if _excess(figures, load) <= 1:
            lower_per_s = middle
        else:
            upper_per_s = middle
    return lower_per_s


def _with_figures(
    best: SimulatedPlan, load: OnlineLoad, pairs: Sequence[Pair], *, num_plans: int
) -> Strategy:
    """Returns the best plan with its predictions, and what its certificate covers."""
    strategy, rate = best.strategy, load.arrivals_per_s
    certificate = strategy.certificate
    assert certificate is not None, "the search proves every plan"
    largest = max(rate, _served_per_s(strategy))
    if best.excess > 0:
        largest = _largest_rate(
            best.pipeline, load, pairs, lower_per_s=rate, upper_per_s=largest
        )
    slots = counted(strategy.workload.batch, "slot")
    covers = (
        f"{certificate.covers}; for {slots} that are refilled without pause "
        f"(of {num_plans} such plans, that with the least simulated time of a request "
        "was taken, which is not proven)"
    )
    return replace(
        strategy,
        online=replace(best.figures, max_arrivals_per_s=largest),
        certificate=replace(certificate, covers=covers),
    )


def _too_many(too_slow: Sequence[Strategy], load: OnlineLoad) -> str:
    """Returns the message where requests arrive faster than any plan serves them."""
    largest = max(map(_served_per_s, too_slow))
    return (
        f"requests arrive faster than they are served: of {counted(len(too_slow), 'plan')} "
        f"the fastest serves {largest:.3g} requests/s, found --arrivals "
        f"{load.arrivals_per_s:g}: expected fewer arrivals, or more devices or fewer bits"
    )


def _no_plan(
    found: Sequence[SimulatedPlan], load: OnlineLoad, pairs: Sequence[Pair]
) -> str:
    """Returns the message where no plan keeps the limits: how near they come, and when."""
    nearest = sorted(found, key=lambda each: each.excess)
    figures, batch = nearest[0].figures, nearest[0].strategy.workload.batch
    limits, times = [], []
    for name, what, limit, value in (
        ("--max-ttft", "time to first token", load.max_ttft_s, figures.ttft_s),
        ("--max-tpot", "time per output token", load.max_tpot_s, figures.tpot_s),
    ):
        if limit is not None:
            limits.append(f"{name} {limit:g}")
            times.append(f"a {what} of {format_seconds(value)} (limit {limit:g} s)")
    largest = max(
        _largest_rate(
            each.pipeline, load, pairs, lower_per_s=0.0, upper_per_s=load.arrivals_per_s
        )
        for each in nearest[:_NUM_NEAREST]
    )
    alone, _ = _figures(nearest[0].pipeline, load, pairs, _ALONE_PER_S)
    if largest > 0:
        less = f"fewer arrivals, up to {largest:.3g} requests/s"
    elif _excess(alone, load) > 1:
        less = "more time, since these are not kept by a request that is alone either"
    else:
        less = f"fewer arrivals, less than {load.arrivals_per_s / 2**_NUM_BISECTIONS:.3g} requests/s"
    return (
        f"no plan keeps {' and '.join(limits)} for {load.percentile:g} % of the requests "
        f"at {load.arrivals_per_s:g} requests/s: of {counted(len(found), 'plan')} that "
        f"were simulated the nearest, with {counted(batch, 'slot')}, has "
        f"{' and '.join(times)}: expected {less}, or higher limits, fewer bits, or more "
        "devices"
    )
