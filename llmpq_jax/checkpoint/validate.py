"""Compares a checkpoint's tensors with those its architecture needs, by headers alone."""

from __future__ import annotations

from collections.abc import Sequence

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors, describe
from llmpq_jax.checkpoint.names import Sources, all_sources
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.precision import ALL_BITS, Bits, HeadBits

_MAX_NAMES = 4


def check_checkpoint(reader: CheckpointReader, architecture: Architecture) -> None:
    """Checks that a checkpoint has the tensors of a model, and no others.

    Raises:
        CheckpointError: A tensor is missing, wrong, or belongs to no module of the
            model.
        UnsupportedModelError: The format of quantised weights is not implemented.
    """
    stored = CheckpointTensors(reader, architecture)
    claimed: set[str] = set()
    for _, file in all_sources(stored.names):
        claimed |= stored.check(file)
    unknown = [
        name
        for name in reader
        if name not in claimed
        and not stored.names.is_harmless(name)
        and not stored.is_zero_bias(name)
    ]
    if unknown:
        shown = ", ".join(map(repr, unknown[:_MAX_NAMES]))
        more = len(unknown) - _MAX_NAMES
        tail = f" and {more} more" if more > 0 else ""
        msg = f"checkpoint {reader.folder}: {shown}{tail} belong to nothing in {describe(architecture)}: expected no tensors but its own; check that config.json is of these weights"
        raise CheckpointError(msg)


def check_bits(
    reader: CheckpointReader,
    architecture: Architecture,
    *,
    layers: Sequence[Bits],
    head: HeadBits,
) -> None:
    """Checks that a checkpoint can be served at these bits.

    Raises:
        CheckpointError: A matrix is quantised to bits that are neither 16 nor those
            asked for.
    """
    stored = CheckpointTensors(reader, architecture)
    for layer, bits in enumerate(layers):
        for tensor, file in stored.names.layer(layer):
            if tensor.is_matrix:
                stored.require_bits(file, bits)
    for tensor, file in stored.names.head():
        if tensor.is_matrix:
            stored.require_bits(file, head)


def layer_bits(
    reader: CheckpointReader, architecture: Architecture
) -> tuple[tuple[Bits, ...], ...]:
    """Returns the bits that each layer can be served at, highest first.

    A layer that the checkpoint has at 4 or 8 bits can be served at those or at 16, one
    that mixes both at 16 alone, and any other layer at all bits.
    """
    stored = CheckpointTensors(reader, architecture)
    return tuple(
        _shared_bits(stored, stored.names.layer(layer))
        for layer in range(architecture.num_layers)
    )


def plannable_bits(
    reader: CheckpointReader, architecture: Architecture, *, head: HeadBits
) -> tuple[Bits, ...]:
    """Returns the bits that every layer can be served at, highest first.

    Plans choose among the same bits for all layers, so others are left out.

    Raises:
        CheckpointError: Only 16 bits would remain although layers are quantised, or the
            head cannot be served at its bits.
    """
    found = layer_bits(reader, architecture)
    shared: tuple[Bits, ...] = tuple(
        bits for bits in ALL_BITS if all(bits in each for each in found)
    )
    if len(shared) == 1 and any(len(each) > 1 for each in found):
        layers_of: dict[tuple[Bits, ...], list[int]] = {}
        for layer, bits in enumerate(found):
            layers_of.setdefault(bits, []).append(layer)
        choices = "; ".join(
            f"{', '.join(map(str, bits))} bits for layers {_ranges(layers)}"
            for bits, layers in layers_of.items()
        )
        msg = f"checkpoint {reader.folder}: can be served at {choices}: expected bits below 16 that all layers share, among which a plan chooses; serve it by its own strategy.toml if it has one, or plan for the unquantised checkpoint"
        raise CheckpointError(msg)
    check_bits(reader, architecture, layers=(), head=head)
    return shared


def _ranges(layers: Sequence[int]) -> str:
    """Formats ascending numbers with runs joined, as in "0–2, 5"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs
    )


def _shared_bits(stored: CheckpointTensors, sources: Sources) -> tuple[Bits, ...]:
    allowed = set(ALL_BITS)
    for tensor, file in sources:
        if tensor.is_matrix:
            allowed &= set(stored.allowed_bits(file))
    return tuple(bits for bits in ALL_BITS if bits in allowed)
