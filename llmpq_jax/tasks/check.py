"""Does a strategy fit here: its stages compiled without weights, or loaded as well."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights, model_fingerprint
from llmpq_jax.errors import StrategyError
from llmpq_jax.runtime.claimed_devices import find_devices
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory, describe_stage, program_memories
from llmpq_jax.stage.emulated_devices import emulate_cpu_devices
from llmpq_jax.stage.sharding import Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFit:
    """Bytes of one stage on each of its devices.

    Attributes:
        accounts: What the compiler says of its programs.
        predicted: By the plan; absent where a person wrote it.
        allowed: By the plan, likewise.
        loaded: Weights as they lie there; absent where none were loaded.
    """

    accounts: tuple[ProgramMemory, ...]
    predicted: int | None
    allowed: int | None
    loaded: int | None = None

    @property
    def compiled(self) -> int:
        """What the hungriest program needs."""
        return max(account.peak for account in self.accounts)

    @property
    def fits(self) -> bool:
        """Whether what the compiler says is within what the plan allows."""
        return self.allowed is None or self.compiled <= self.allowed


def fit_stages(
    strategy: Strategy,
    *,
    loads: bool = False,
    on_stage: Callable[[], None] = lambda: None,
) -> list[StageFit]:
    """Compiles every stage on the devices it names, stages side by side.

    Args:
        strategy: Its model path as seen from here; unless `loads`, its config.json is
            enough.
        loads: Load the weights too, and run each program once.
        on_stage: Called as each stage is compiled.

    Raises:
        StrategyError: It is for another model, or names devices that are not here.
    """
    folder = Path(strategy.model.path)
    architecture = read_architecture(folder)
    if has_weights(folder) and model_fingerprint(folder) != strategy.model.fingerprint:
        msg = f"the strategy is for {strategy.model.fingerprint}, the model in {folder} is {model_fingerprint(folder)}: solve again for this model"
        raise StrategyError(msg)
    emulate_cpu_devices([name for stage in strategy.stages for name in stage.devices])
    devices = find_devices(strategy)

    def compile_stage(number: int) -> tuple[ProgramMemory, ...]:
        stage = strategy.stages[number]
        program = describe_stage(
            architecture,
            layers=stage.layers,
            bits=stage.bits,
            precision=strategy.precision,
            placement=Placement(
                devices[number], group_size=strategy.precision.group_size
            ),
            wire_bits=stage.wire_bits,
        )
        accounts = tuple(
            program_memories(
                program,
                workload=strategy.workload,
                micro_batch=strategy.micro_batch,
                precision=strategy.precision,
                received_bits=strategy.received_bits(number),
            )
        )
        on_stage()
        return accounts

    with ThreadPoolExecutor() as pool:
        accounts = list(pool.map(compile_stage, range(len(strategy.stages))))
    loaded: list[int] | list[None] = [None] * len(accounts)
    if loads:
        loaded = _loaded_bytes(strategy)
    return [
        StageFit(
            accounts=programs,
            predicted=stage.predicted and stage.predicted.memory_bytes,
            allowed=stage.predicted and stage.predicted.allowed_bytes,
            loaded=weights,
        )
        for stage, programs, weights in zip(
            strategy.stages, accounts, loaded, strict=True
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
