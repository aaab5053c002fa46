"""Models, workloads and strategies whose predicted seconds are compared with measured ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmpq_jax.schema.precision import Activations, Bits, HeadBits
from llmpq_jax.schema.workload import Workload
from tools.benchmarks.models import random_model

_TINY = Path(__file__).parents[2] / "examples" / "tiny-code-lm"


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedStrategy:
    """A strategy that is given to the planner, to be predicted and run.

    Attributes:
        ends: Index after the last layer of each stage.
        bits: Bit width of each stage's layers.
        prefill: Rows of a prefill micro-batch.
        decode: Rows of a decode micro-batch.
    """

    ends: tuple[int, ...]
    bits: tuple[Bits, ...]
    prefill: int
    decode: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Strategies of one model, and their workload.

    Attributes:
        folder: Function from the folder of random models to the checkpoint's folder.
        activations: Type of activations of all strategies.
        head_bits: Bit width of the head in all strategies.
        workload: Workload of all strategies.
        strategies: Strategies to compare.
    """

    folder: Callable[[Path], Path]
    activations: Activations
    head_bits: HeadBits
    workload: Workload
    strategies: tuple[PinnedStrategy, ...]


EXPERIMENTS = {
    "llama-250m": Experiment(
        folder=lambda models: random_model("llama-250m", models),
        activations="bfloat16",
        head_bits=8,
        workload=Workload(batch=16, prompt_length=128, new_tokens=64),
        strategies=(
            PinnedStrategy(ends=(16,), bits=(8,), prefill=16, decode=16),
            PinnedStrategy(ends=(16,), bits=(4,), prefill=4, decode=16),
            PinnedStrategy(ends=(8, 16), bits=(8, 8), prefill=4, decode=16),
            PinnedStrategy(ends=(8, 16), bits=(8, 8), prefill=4, decode=8),
            PinnedStrategy(ends=(8, 16), bits=(8, 8), prefill=1, decode=2),
            PinnedStrategy(ends=(4, 16), bits=(16, 4), prefill=2, decode=8),
            PinnedStrategy(ends=(4, 8, 12, 16), bits=(8, 8, 8, 8), prefill=4, decode=4),
            PinnedStrategy(ends=(3, 10, 16), bits=(16, 8, 4), prefill=8, decode=16),
        ),
    ),
    "tiny": Experiment(
        folder=lambda _: _TINY,
        activations="float32",
        head_bits=16,
        workload=Workload(batch=16, prompt_length=64, new_tokens=64),
        strategies=(
            PinnedStrategy(ends=(12,), bits=(16,), prefill=16, decode=16),
            PinnedStrategy(ends=(12,), bits=(4,), prefill=4, decode=16),
            PinnedStrategy(ends=(6, 12), bits=(8, 8), prefill=4, decode=16),
            PinnedStrategy(ends=(6, 12), bits=(8, 8), prefill=4, decode=8),
            PinnedStrategy(ends=(6, 12), bits=(16, 8), prefill=1, decode=2),
            PinnedStrategy(
                ends=(3, 6, 9, 12), bits=(8, 16, 16, 8), prefill=2, decode=16
            ),
            PinnedStrategy(
                ends=(3, 6, 9, 12), bits=(16, 16, 16, 16), prefill=2, decode=4
            ),
            PinnedStrategy(ends=(2, 8, 12), bits=(16, 4, 8), prefill=8, decode=16),
        ),
    ),
}
