"""Says where a model's numbers stopped being finite."""

from __future__ import annotations

from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.message import NotFinite


def not_finite_reason(
    found: NotFinite | None, strategy: Strategy, *, num_tokens: int
) -> str:
    """Returns the message for a request whose logits are not finite numbers.

    Args:
        found: Place where they were first not finite; None if they were finite when the
            request's tokens were computed again.
        strategy: Strategy of the stages.
        num_tokens: Number of tokens that were generated before.
    """
    where = "computed again, they are finite"
    if found is not None:
        stage = strategy.stages[found.stage]
        first, end = stage.layers
        layer = first + found.part - 1
        part = f"layer {layer}"
        if found.part == 0:
            part = "the embedding" if found.stage == 0 else "what the stage receives"
        elif layer >= end:
            is_last = found.stage + 1 == len(strategy.stages)
            part = "the head" if is_last else "what the stage sends"
        where = f"{part} on {' + '.join(stage.devices)} is the first part whose results are not finite"
    return (
        f"the model's logits are NaN or infinite after {num_tokens} new tokens: {where}; "
        "expected finite numbers: check the checkpoint's weights, and solve with "
        "--activations bfloat16 or float32 if they are float16"
    )
