"""The state of a server: whether it loads, serves or ends, and what it serves with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.server.bodies import RequestMaker
from llmpq_jax.server.errors import unavailable
from llmpq_jax.server.metrics import Metrics
from llmpq_jax.server.settings import ServerSettings, default_sampling


@dataclass(kw_only=True, slots=True)
class Served:
    """What requests are served with once the model is loaded.

    Attributes:
        serving: Loop that serves requests.
        maker: Makes requests of clients' bodies.
    """

    serving: ServingLoop
    maker: RequestMaker

    @property
    def pipeline(self) -> Pipeline:
        """Pipeline with loaded stages."""
        return self.serving.pipeline


class ServerState:
    """What the routes of a server share.

    Attributes:
        settings: Settings of the server.
        metrics: Counters and histograms.
        reason: Why no requests are taken now; None if they are.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Starts as a server that loads its model."""
        self.settings = settings
        self.metrics = Metrics(settings.model_name)
        self.reason: str | None = "the model is being loaded"
        self._served: Served | None = None
        self.metrics.watch(lambda: self._served and self._served.serving)

    def serve(self, serving: ServingLoop) -> None:
        """Takes requests from now on, with a loop that has started."""
        pipeline = serving.pipeline
        sampling = default_sampling(Path(pipeline.strategy.model.path))
        maker = RequestMaker(pipeline, self.settings, sampling)
        self._served = Served(serving=serving, maker=maker)
        self.reason = None

    def stop(self, reason: str) -> None:
        """Takes no more requests; those that are there go on."""
        self.reason = reason

    @property
    def served(self) -> Served:
        """What requests are served with.

        Raises:
            ApiError: No requests are taken now.
        """
        served = self._served
        if served is None or self.reason is not None:
            msg = f"{self.reason}: try again later"
            raise unavailable(msg)
        if not served.serving.is_serving:
            msg = "the model is not served any more: see the server's log"
            raise unavailable(msg)
        return served
