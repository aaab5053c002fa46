"""Compares what a checkpoint holds with what its architecture needs, by headers alone."""

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
    """Checks that the checkpoint holds this model's tensors, and no others.

    Raises:
        CheckpointError: A tensor is missing, has another shape or another type, or
            belongs to nothing in the model.
        UnsupportedModelError: Weights are quantised in a way that is not implemented.
    """
    stored = CheckpointTensors(reader, architecture)
    claimed: set[str] = set()
    for _, file in all_sources(stored.names):
        claimed |= stored.check(file)
    strangers = [
        name
        for name in reader
        if name not in claimed
        and not stored.names.is_harmless(name)
        and not stored.is_zero_bias(name)
    ]
    if strangers:
        shown = ", ".join(map(repr, strangers[:_MAX_NAMES]))
        more = len(strangers) - _MAX_NAMES
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
        CheckpointError: A matrix is stored at fewer bits than 16, and others are asked.
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
    """Returns for each layer the bits it can be served at, highest first.

    A layer that the checkpoint keeps at 4 or 8 bits can have those or 16, one that it
    mixes both in 16 alone, any other all.
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

    Plans choose among the same bits for all layers, so what only some can have is lost.

    Raises:
        CheckpointError: That would leave 16 bits alone, though layers are stored at
            fewer, or the head cannot be served at its bits.
    """
    found = layer_bits(reader, architecture)
    shared: tuple[Bits, ...] = tuple(
        bits for bits in ALL_BITS if all(bits in each for each in found)
    )
    if len(shared) == 1 and any(len(each) > 1 for each in found):
        layers_of: dict[tuple[Bits, ...], list[int]] = {}
        for layer, bits in enumerate(found):
            layers_of.setdefault(bits, []).append(layer)
        told = "; ".join(
            f"{', '.join(map(str, bits))} bits for layers {_ranges(layers)}"
            for bits, layers in layers_of.items()
        )
        msg = f"checkpoint {reader.folder}: can be served at {told}: expected bits below 16 that all layers share, among which a plan chooses; serve it by its own strategy.toml if it has one, or plan for the unquantised checkpoint"
        raise CheckpointError(msg)
    check_bits(reader, architecture, layers=(), head=head)
    return shared


def _ranges(layers: Sequence[int]) -> str:
    """Writes ascending numbers with runs joined: 0–2, 5."""
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
