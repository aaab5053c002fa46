"""Checks whether a strategy fits here: compiles its stages, and loads them if asked to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights, model_fingerprint
from llmpq_jax.arch.model_limits import check_widths
from llmpq_jax.errors import StrategyError
from llmpq_jax.runtime.claimed_devices import find_devices
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory, describe_stage, program_memories
from llmpq_jax.stage.emulated_devices import emulate_cpu_devices
from llmpq_jax.stage.sharding import StageSharding


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
    loads: bool = False,
    on_stage: Callable[[], None] = lambda: None,
) -> list[StageFit]:
    """Compiles every stage on the devices it names, stages in parallel.

    The model's config.json is enough, unless `loads` asks to load the weights too and
    run each program once.

    Raises:
        StrategyError: The strategy is for another model, or names devices that are not
            here.
    """
    folder = Path(strategy.model.path)
    architecture = read_architecture(folder)
    if has_weights(folder) and model_fingerprint(folder) != strategy.model.fingerprint:
        msg = f"the strategy is for {strategy.model.fingerprint}, the model in {folder} is {model_fingerprint(folder)}: solve again for this model"
        raise StrategyError(msg)
    check_widths(strategy, architecture)
    emulate_cpu_devices([name for stage in strategy.stages for name in stage.devices])
    devices = find_devices(strategy)

    def compile_stage(number: int) -> tuple[ProgramMemory, ...]:
        stage = strategy.stages[number]
        program = describe_stage(
            architecture,
            stage,
            strategy.precision,
            StageSharding(devices[number], group_size=strategy.precision.group_size),
            received_bits=strategy.received_bits(number),
        )
        memories = tuple(
            program_memories(
                program,
                workload=strategy.workload,
                micro_batch=strategy.micro_batch,
            )
        )
        on_stage()
        return memories

    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(compile_stage, range(len(strategy.stages))))
    loaded: list[int] | list[None] = [None] * len(programs)
    if loads:
        loaded = _loaded_bytes(strategy)
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


def _loaded_bytes(strategy: Strategy) -> list[int]:
    """Loads the strategy, runs its largest batch once, and counts the weights."""
    from llmpq_jax.runtime.pipeline import Pipeline
    from llmpq_jax.runtime.request import Request

    workload = strategy.workload
    request = Request(
        token_ids=(1,) * workload.prompt_length,
        max_new_tokens=workload.new_tokens,
        ignores_eos=True,
    )
    with Pipeline.load(strategy) as pipeline:
        pipeline.prepare([request] * workload.batch)
        return pipeline.weight_bytes
