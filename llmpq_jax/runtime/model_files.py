"""Whether a strategy's model is the one that lies where it says."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.checkpoint.rounded import RoundedWeights
from llmpq_jax.errors import StrategyError
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.fingerprint import model_fingerprint
from llmpq_jax.spec.strategy import Strategy


def rounded_weights(strategy: Strategy) -> RoundedWeights | None:
    """Opens the weights that a strategy serves instead of rounding to the nearest.

    Raises:
        CheckpointError: The folder does not hold them.
        StrategyError: The strategy names none, or others.
    """
    precision, model = strategy.precision, strategy.model
    if precision.rounding == "nearest":
        return None
    if model.rounded is None:
        msg = f"the strategy serves weights rounded by {precision.rounding!r} and names no folder of them: expected model.rounded, which `llmpq-jax indicate --rounding` fills"
        raise StrategyError(msg)
    rounded = RoundedWeights(Path(model.rounded), fingerprint=model.fingerprint)
    found = (rounded.made_for.rounding, rounded.made_for.group_size)
    if found != (precision.rounding, precision.group_size):
        msg = f"rounded weights {model.rounded}: are rounded by {found[0]!r} in groups of {found[1]}, expected {precision.rounding!r} in groups of {precision.group_size} as the strategy says: name the folder it was planned with"
        raise StrategyError(msg)
    return rounded


def check_model(strategy: Strategy, architecture: Architecture, folder: Path) -> None:
    """Refuses a folder that holds another model than a strategy is for.

    Raises:
        StrategyError: Layers or fingerprint differ.
    """
    if architecture.num_layers != strategy.model.num_layers:
        msg = f"the strategy is for {strategy.model.num_layers} layers, the model in {folder} has {architecture.num_layers}: solve for this model"
        raise StrategyError(msg)
    found = model_fingerprint(folder)
    if found != strategy.model.fingerprint:
        msg = f"the strategy is for the model {strategy.model.fingerprint}, {folder} holds {found}: solve for this model, or correct model.path"
        raise StrategyError(msg)
