"""The interface of an engine, which runs the stages for the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from llmpq_jax.errors import WorkerFailedError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import StageFacts, StageShapes

FAILURE_ADVICE = (
    "see Ray's logs on that machine, then run this command again; `generate --out` "
    "continues with --resume"
)

# Called with the number of shapes that a stage has been compiled for since the last call, and
# with that of all shapes of all stages.
OnCompiled = Callable[[int, int], object]


class StageFailedError(WorkerFailedError):
    """A stage failed and may be recovered; see `Engine.recover`."""


class DeviceFailedError(WorkerFailedError):
    """A device of a stage has failed for good, or is missing from the start.

    Attributes:
        what: Message without the advice at its end.
        devices: Full names of failed devices whose nodes may be present.
        nodes: Names of the present nodes; the devices of all others have failed too.
    """

    def __init__(
        self,
        what: str,
        *,
        devices: Sequence[str],
        nodes: Sequence[str],
        advice: str = FAILURE_ADVICE,
    ) -> None:
        """Takes the attributes, and advice for the user that ends the message."""
        super().__init__(f"{what}: {advice}")
        self.what = what
        self.devices = tuple(devices)
        self.nodes = tuple(nodes)


class Engine(Protocol):
    """Loaded stages in pipeline order, in this process or in others."""

    @property
    def facts(self) -> Sequence[StageFacts]:
        """Properties of each stage, in pipeline order."""
        ...

    @property
    def supports_multi_step(self) -> bool:
        """Whether one message may ask for several decode steps."""
        ...

    def prepare(
        self, shapes: Sequence[StageShapes], *, on_compiled: OnCompiled
    ) -> None:
        """Compiles all stages at the same time; calls `on_compiled` meanwhile.

        What that raises, as after Ctrl-C, ends it between two shapes.
        """
        ...

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches: slots in each row of each decode group."""
        ...

    def free(self) -> None:
        """Frees the caches."""
        ...

    def submit(self, message: Message) -> None:
        """Sends a micro-batch to the first stage, without waiting for it."""
        ...

    def next_result(self) -> Message:
        """Waits for the next result of the last stage.

        Raises:
            StageFailedError: If a stage failed; all micro-batches in flight are lost.
            BaseException: If a stage raised it.
        """
        ...

    def recover(self, failure: StageFailedError) -> None:
        """Starts and loads failed stages again; caches must be allocated again.

        Args:
            failure: Error that said so.

        Raises:
            DeviceFailedError: If a stage cannot be recovered.
            WorkerFailedError: If stages are not to be recovered.
        """
        ...

    def take_events(self) -> list[StageEvent]:
        """Returns the stages' events since the last call, on this process's clock."""
        ...

    def peaks(self) -> dict[int, StagePeak]:
        """Returns peaks by stage while caches are allocated, without failed stages."""
        ...

    def close(self) -> None:
        """Ends the stages."""
        ...


class CompileStages(Protocol):
    """Compiles every stage of a strategy for its devices, without weights."""

    def __call__(
        self, strategy: Strategy, *, on_stage: Callable[[], None]
    ) -> list[tuple[ProgramMemory, ...]]:
        """Returns each stage's programs; calls `on_stage` after each stage."""
        ...


class StartEngine(Protocol):
    """Starts an engine, which loads every stage of a strategy."""

    def __call__(self, strategy: Strategy, *, on_layer: Callable[[], None]) -> Engine:
        """Takes a strategy, and a function that is called after each layer is loaded."""
        ...
