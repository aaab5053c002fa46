"""Opens the model and the weights that a strategy serves, checked against the strategy."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights, model_fingerprint
from llmpq_jax.arch.model_limits import check_widths
from llmpq_jax.checkpoint.calibrated import CalibratedWeights
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.checkpoint.validate import check_bits, check_checkpoint
from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.strategy import Strategy


def open_store(strategy: Strategy) -> WeightStore:
    """Opens a strategy's checkpoint, and its calibrated weights if it serves any.

    Raises:
        StrategyError: The strategy is for another model, or for another rounding than
            that of its calibrated weights.
        CheckpointError: Weights are missing or damaged, or quantised to other bits than
            the strategy's.
    """
    architecture = read_model(strategy)
    folder = Path(strategy.model.path)
    precision = strategy.precision
    stored = CheckpointTensors(
        CheckpointReader(folder),
        architecture,
        rounds_unquantized=precision.rounds_unquantized,
    )
    check_checkpoint(stored)
    check_bits(stored, layers=strategy.bits, head=precision.head_bits)
    return WeightStore(stored, calibrated=_calibrated_weights(strategy))


def read_model(strategy: Strategy) -> Architecture:
    """Reads the architecture of a strategy's model, with or without its weights.

    Raises:
        StrategyError: The strategy is for another model.
    """
    folder = Path(strategy.model.path)
    architecture = read_architecture(folder)
    if architecture.num_layers != strategy.model.num_layers:
        msg = f"the strategy is for {strategy.model.num_layers} layers, the model in {folder} has {architecture.num_layers}: solve for this model"
        raise StrategyError(msg)
    check_widths(strategy, architecture)
    expected = strategy.model.fingerprint
    if has_weights(folder) and (found := model_fingerprint(folder)) != expected:
        msg = f"the strategy is for the model {expected}, {folder} holds {found}: solve for this model, or correct model.path"
        raise StrategyError(msg)
    return architecture


def _calibrated_weights(strategy: Strategy) -> CalibratedWeights | None:
    """Opens the calibrated weights; None where weights are rounded to the nearest."""
    precision, model = strategy.precision, strategy.model
    if precision.rounding == "nearest":
        return None
    if model.rounded is None:
        msg = f"the strategy serves weights rounded by {precision.rounding!r} and names no folder of them: expected model.rounded, which `llmpq-jax indicate --rounding` fills"
        raise StrategyError(msg)
    weights = CalibratedWeights(Path(model.rounded), fingerprint=model.fingerprint)
    found = (weights.calibration.rounding, weights.calibration.group_size)
    if found != (precision.rounding, precision.group_size):
        msg = f"rounded weights {model.rounded}: are rounded by {found[0]!r} in groups of {found[1]}, expected {precision.rounding!r} in groups of {precision.group_size} as the strategy says: name the folder it was planned with"
        raise StrategyError(msg)
    return weights
