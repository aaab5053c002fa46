"""What a Prometheus server reads, with the suffixes that dashboards for vLLM know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmpq_jax.runtime.request import Completion
from llmpq_jax.runtime.serving_loop import ServingLoop

_PREFIX = "llmpq"
# From the time of a token on a GPU to that of a long answer on a CPU.
_TOKEN_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REQUEST_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _LoopCollector(Collector):
    """Reads what a serving loop and its stages do."""

    def __init__(
        self, serving: Callable[[], ServingLoop | None], model_name: str
    ) -> None:
        self._serving = serving
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of the loop, and of all stages; none before it serves."""
        serving = self._serving()
        if serving is not None:
            yield from self._of_loop(serving)
            yield from self._of_stages(serving)

    def _of_loop(self, serving: ServingLoop) -> Iterator[Metric]:
        counters = serving.counters
        slots = serving.shape.num_rows * serving.shape.num_slots
        for name, text, value in (
            ("num_requests_running", "Requests with a slot.", counters.num_running),
            ("num_requests_waiting", "Requests without one.", counters.num_waiting),
            (
                "kv_cache_usage_perc",
                "Share of the caches that running requests use, from 0 to 1.",
                counters.num_held_tokens / slots,
            ),
            (
                "prefix_cache_hit_tokens",
                "Tokens of prompts that a slot's cache held already.",
                counters.num_cached_tokens,
            ),
        ):
            metric = GaugeMetricFamily(f"{_PREFIX}:{name}", text, labels=["model_name"])
            metric.add_metric([self._model_name], value)
            yield metric

    def _of_stages(self, serving: ServingLoop) -> Iterator[Metric]:
        readings = serving.meter.readings()
        columns: dict[str, tuple[str, list[float | None]]] = {
            "stage_busy_share": (
                "Share of the last 10 s in which the stage computed, from 0 to 1.",
                [each.busy_share for each in readings],
            ),
            "stage_queue_seconds": (
                "Mean time of a micro-batch in the stage's queue.",
                [each.queued_s for each in readings],
            ),
            "stage_decode_seconds": (
                "Mean time of a decode step of one micro-batch.",
                [each.decode_s for each in readings],
            ),
            "stage_predicted_decode_seconds": (
                "Time of that step as planned.",
                [each.predicted_decode_s for each in readings],
            ),
        }
        names = ["model_name", "stage"]
        for name, (text, values) in columns.items():
            metric = GaugeMetricFamily(f"{_PREFIX}:{name}", text, labels=names)
            for number, value in enumerate(values):
                if value is not None:
                    metric.add_metric([self._model_name, str(number)], value)
            yield metric
        busy = CounterMetricFamily(
            f"{_PREFIX}:stage_busy_seconds", "Time of computing.", labels=names
        )
        for number, reading in enumerate(readings):
            busy.add_metric([self._model_name, str(number)], reading.busy_total_s)
        yield busy


class Metrics:
    """Counters and histograms of a server."""

    def __init__(self, model_name: str) -> None:
        """Starts at zero; every metric has the model's name as a label."""
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name}
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self._finished = Counter(
            f"{_PREFIX}:request_success",
            "Requests that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self.first_token_s = self._histogram(
            "time_to_first_token_seconds", "From request to first token.", _REQUEST_S
        )
        self.between_tokens_s = self._histogram(
            "inter_token_latency_seconds", "From token to token.", _TOKEN_S
        )
        self.whole_s = self._histogram(
            "e2e_request_latency_seconds", "From request to last token.", _REQUEST_S
        )

    def finished(self, reason: str) -> None:
        """Counts a request that ended."""
        self._finished.labels(**self._labels, finished_reason=reason).inc()

    def watch(self, serving: Callable[[], ServingLoop | None]) -> None:
        """Reads gauges from whichever loop serves requests, if one does."""
        collector = _LoopCollector(serving, self._labels["model_name"])
        self.registry.register(collector)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(
            f"{_PREFIX}:{name}", text, ["model_name"], registry=self.registry
        )
        return counter.labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"{_PREFIX}:{name}",
            text,
            ["model_name"],
            buckets=buckets,
            registry=self.registry,
        )
        return histogram.labels(**self._labels)


class RequestTimes:
    """The times of one HTTP request, for the histograms."""

    def __init__(self, metrics: Metrics) -> None:
        """Starts the clock."""
        self._metrics = metrics
        self._started_s = time.perf_counter()
        self._last_s: dict[int, float] = {}

    def add(self, index: int, num_tokens: int) -> None:
        """Takes the number of tokens that a continuation got now."""
        if not num_tokens:
            return
        now_s = time.perf_counter()
        last_s = self._last_s.get(index)
        if last_s is None:
            self._metrics.first_token_s.observe(now_s - self._started_s)
            num_tokens -= 1
            last_s = now_s
        for _ in range(num_tokens):
            self._metrics.between_tokens_s.observe((now_s - last_s) / num_tokens)
        self._last_s[index] = now_s

    def end(self, completion: Completion) -> None:
        """Takes a continuation that ended."""
        metrics = self._metrics
        metrics.whole_s.observe(time.perf_counter() - self._started_s)
        metrics.prompt_tokens.inc(completion.num_prompt_tokens)
        metrics.generation_tokens.inc(len(completion.token_ids))
        metrics.finished(completion.finish_reason)
