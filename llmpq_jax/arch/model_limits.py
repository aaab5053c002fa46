"""What a model's sizes forbid: contexts past its positions, stages over too many devices."""

from __future__ import annotations

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import tensor_widths
from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.workload import Workload


def check_positions(architecture: Architecture, workload: Workload) -> tuple[str, ...]:
    """Compares a workload with a model's positions, and returns warnings.

    Learned positions end, so a longer context is refused. Rotary ones are computed for
    any length, as transformers does too, but the model was not trained for them.

    Raises:
        ValueError: If the model has no positions for the workload's context.
    """
    # The last new token is never read.
    num_read, known = workload.context_length - 1, architecture.max_positions
    if architecture.position == "alibi" or num_read <= known:
        return ()
    found = f"--prompt-length {workload.prompt_length} and --new-tokens {workload.new_tokens}"
    limit = architecture.position_limit
    if limit is not None:
        msg = f"{found} need {num_read} positions, the model has {limit}: expected at most {limit + 1} tokens together; plan for fewer"
        raise ValueError(msg)
    return (
        f"{found} need {num_read} positions, the model was trained for {known}: longer texts may lose their thread",
    )


def check_widths(strategy: Strategy, architecture: Architecture) -> None:
    """Refuses a strategy with a stage over devices that cannot share a layer.

    Raises:
        StrategyError: If the number of devices does not divide heads or MLP evenly.
    """
    a = architecture
    for stage in strategy.stages:
        width = len(stage.devices)
        possible = tensor_widths(architecture, width)
        if width not in possible:
            msg = f"the stage on {', '.join(stage.devices)} has {width} devices, which do not share {a.num_heads} query heads, {a.num_kv_heads} key-value heads and an MLP of width {a.intermediate_size} evenly: expected a number of devices among {', '.join(map(str, possible))}; change the stage, or solve again"
            raise StrategyError(msg)
