"""Requests that arrive at random, limits on how long they wait, and what a plan keeps of them."""

from __future__ import annotations

from typing import Annotated

from llmpq_jax.schema.field_types import Count, FilePath, Predicted, Within
from llmpq_jax.schema.record import record

# From one a day up to far more than any pipeline serves, and limits from a microsecond.
_RATES = (1e-5, 1e6)
_LIMITS_S = (1e-6, 1e6)
Rate = Annotated[float, Within(least=_RATES[0], most=_RATES[1])]
_Limit = Annotated[float, Within(least=_LIMITS_S[0], most=_LIMITS_S[1])]
_Percentile = Annotated[float, Within(least=1.0, most=99.9)]


@record
class OnlineLoad:
    """Requests that arrive at random (a Poisson stream), and limits on how long they wait.

    Attributes:
        arrivals_per_s: Requests per second, on average.
        lengths: Path of a JSON file with pairs of prompt and reply lengths, in tokens, from
            which each request draws one; relative to the strategy file or absolute.
        percentile: Percentage of the requests that keep each limit.
        max_ttft_s: Maximum time to first token of these requests, in seconds; absent
            without such a limit.
        max_tpot_s: Maximum time per output token after the first, mean of each request, in
            seconds; absent without such a limit.
        batch: Number of requests that are served at the same time; absent to let the
            planner choose.
    """

    arrivals_per_s: Rate
    lengths: FilePath
    percentile: _Percentile = 95.0
    max_ttft_s: _Limit | None = None
    max_tpot_s: _Limit | None = None
    batch: Count | None = None

    def __post_init__(self) -> None:
        for name, value, (least, most), unit in (
            ("--arrivals", self.arrivals_per_s, _RATES, "requests/s"),
            ("--max-ttft", self.max_ttft_s, _LIMITS_S, "s"),
            ("--max-tpot", self.max_tpot_s, _LIMITS_S, "s"),
        ):
            # Whatever is not a number is in no range.
            if value is not None and not least <= value <= most:
                msg = f"{name} {value:g}: expected {least:g} to {most:g} {unit}"
                raise ValueError(msg)


@record
class OnlinePrediction:
    """Predicted times of requests that arrive at random, from a simulation.

    Attributes:
        arrivals_per_s: Requests per second, on average.
        percentile: Percentage of the requests that the next two hold for.
        ttft_s: Time to first token, in seconds.
        tpot_s: Time per output token after the first, in seconds.
        request_s: Time from a request's arrival to its last token, in seconds, mean over
            the requests; plans are compared by it.
        busy_rows: Requests that have a slot, mean over time.
        max_arrivals_per_s: Requests per second up to which the limits are kept; without
            limits, as many as are served if there are always more.
        num_requests: Number of requests that were simulated.
    """

    arrivals_per_s: Predicted
    percentile: Predicted
    ttft_s: Predicted
    tpot_s: Predicted
    request_s: Predicted
    busy_rows: Predicted
    max_arrivals_per_s: Predicted
    num_requests: Count
