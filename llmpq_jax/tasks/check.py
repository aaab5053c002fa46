"""Checks whether a strategy fits: compiles its stages, and loads them if asked to."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.report.console import progress_bar
from llmpq_jax.runtime.engines.engine import CompileStages, StartEngine
from llmpq_jax.runtime.engines.local import compile_local
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory
from llmpq_jax.tasks.load_pipeline import load_pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFit:
    """Bytes of one stage on each of its devices.

    Attributes:
        programs: Memory of each compiled program, from the compiler.
        predicted: Bytes that the plan predicts; None if it was written by hand.
        allowed: Bytes that the plan allows; None if it was written by hand.
        loaded: Bytes of the loaded weights; None if none were loaded.
    """

    programs: tuple[ProgramMemory, ...]
    predicted: int | None
    allowed: int | None
    loaded: int | None = None

    @property
    def compiled(self) -> int:
        """Bytes that the largest program needs."""
        return max(program.peak for program in self.programs)

    @property
    def fits(self) -> bool:
        """Whether the compiled programs keep what the plan allows."""
        return self.allowed is None or self.compiled <= self.allowed


def fit_stages(
    strategy: Strategy,
    *,
    compile_stages: CompileStages = compile_local,
    start: StartEngine | None = None,
) -> list[StageFit]:
    """Compiles every stage for the devices it names, with progress on stderr.

    Args:
        strategy: Strategy to check; to compile it, the model's config.json is enough.
        compile_stages: Function that compiles the stages; by default in this process.
        start: Function that starts the engine in which the weights are loaded and each
            program runs once; None to load none.

    Raises:
        StrategyError: The strategy is for another model, or for missing devices.
        WorkerFailedError: A process or a machine of a stage failed.
    """
    with progress_bar("compiling", len(strategy.stages), unit="stages") as advance:
        programs = compile_stages(strategy, on_stage=lambda: advance(1))
    loaded: list[int] | list[None] = [None] * len(programs)
    if start is not None:
        loaded = _loaded_bytes(strategy, start)
    return [
        StageFit(
            programs=of_stage,
            predicted=stage.predicted and stage.predicted.memory_bytes,
            allowed=stage.predicted and stage.predicted.allowed_bytes,
            loaded=weights,
        )
        for stage, of_stage, weights in zip(
            strategy.stages, programs, loaded, strict=True
        )
    ]


def _loaded_bytes(strategy: Strategy, start: StartEngine) -> list[int]:
    """Loads the strategy, runs its largest batch once, and counts the weights."""
    workload = strategy.workload
    request = Request(
        token_ids=(1,) * workload.prompt_length,
        max_new_tokens=workload.new_tokens,
        ignores_eos=True,
    )
    with load_pipeline(strategy, start) as pipeline:
        pipeline.prepare([request] * workload.batch)
        return pipeline.weight_bytes
