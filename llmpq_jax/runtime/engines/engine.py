"""What the driver needs of an engine, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from llmpq_jax.errors import WorkerFailedError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import BatchNeeds, StageFacts

AFTER_A_FAILURE = (
    "results so far are whole; see Ray's logs on that machine, then run again"
)


class StageFailedError(WorkerFailedError):
    """A stage is lost that may be had back: see `Engine.recover`."""


class DeviceFailedError(WorkerFailedError):
    """What a stage runs on is gone, or is not there to begin with.

    Attributes:
        what: Is gone, without the advice that ends the message.
        devices: Full names of those that are gone, though their node may be there.
        nodes: That are still there; the devices of all others are gone too.
    """

    def __init__(
        self,
        what: str,
        *,
        devices: Sequence[str],
        nodes: Sequence[str],
        advice: str = AFTER_A_FAILURE,
    ) -> None:
        """Takes the attributes, and what a person may do about it."""
        super().__init__(f"{what}: {advice}")
        self.what = what
        self.devices = tuple(devices)
        self.nodes = tuple(nodes)


class Engine(Protocol):
    """Stages that are loaded, wherever they are, and the way into and out of them."""

    @property
    def facts(self) -> Sequence[StageFacts]:
        """What is known of each stage, in pipeline order."""
        ...

    @property
    def takes_steps(self) -> bool:
        """Whether a message may ask for several decode steps in one go."""
        ...

    def prepare(
        self, needs: Sequence[BatchNeeds], *, on_stage: Callable[[], None]
    ) -> None:
        """Compiles all stages side by side for all that is needed.

        Args:
            needs: One after the other.
            on_stage: Called as each stage is ready.
        """
        ...

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches for so many groups of rows."""
        ...

    def free(self) -> None:
        """Gives the caches' memory back."""
        ...

    def submit(self, message: Message) -> None:
        """Sends a micro-batch into the first stage; returns at once."""
        ...

    def next_result(self) -> Message:
        """Waits for a micro-batch to leave the last stage.

        Raises:
            StageFailedError: A stage is lost; nothing that was submitted comes any more.
            BaseException: What a stage raised, as it was raised there.
        """
        ...

    def recover(self) -> None:
        """Has lost stages started and loaded anew; all caches are to be made again.

        Raises:
            DeviceFailedError: They cannot be had back.
            WorkerFailedError: They are not to be.
        """
        ...

    def take_events(self) -> list[StageEvent]:
        """Returns what stages did since the last call, on this process's clock."""
        ...

    def peaks(self) -> dict[int, StagePeak]:
        """Returns the most that each stage held, while its caches are allocated.

        A stage that is lost is left out.
        """
        ...

    def close(self) -> None:
        """Ends the stages."""
        ...


class StartEngine(Protocol):
    """Loads every stage of a strategy and starts what drives them."""

    def __call__(self, strategy: Strategy, *, on_layer: Callable[[], None]) -> Engine:
        """Takes a strategy, and what is to be called as each layer is there."""
        ...
