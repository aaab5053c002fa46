"""Compares a checkpoint's tensors with those its architecture needs, by headers alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors, describe
from llmpq_jax.checkpoint.names import Sources, all_sources
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.precision import ALL_BITS, Bits, HeadBits

_MAX_NAMES = 4


def check_checkpoint(stored: CheckpointTensors) -> None:
    """Checks that a checkpoint has the tensors of a model, and no others.

    Raises:
        CheckpointError: A tensor is missing, wrong, or belongs to no module of the
            model.
        UnsupportedModelError: The format of quantised weights is not implemented.
    """
    reader = stored.reader
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
        msg = f"checkpoint {reader.folder}: {shown}{tail} belong to nothing in {describe(stored.architecture)}: expected no tensors but its own; check that config.json is of these weights"
        raise CheckpointError(msg)


def check_bits(
    stored: CheckpointTensors, *, layers: Sequence[Bits], head: HeadBits
) -> None:
    """Checks that a checkpoint can be served at these bits.

    Raises:
        CheckpointError: A matrix is quantised to bits that are neither 16 nor those
            asked for, or kept unquantised among quantised ones and is to be rounded.
    """
    for layer, bits in enumerate(layers):
        for tensor, file in stored.names.layer(layer):
            if tensor.is_matrix:
                stored.require_bits(file, bits)
    for tensor, file in stored.names.head():
        if tensor.is_matrix:
            stored.require_bits(file, head)


def plannable_bits(
    stored: CheckpointTensors, *, head: HeadBits
) -> tuple[tuple[Bits, ...], ...]:
    """Returns the bits that each layer can be served at, highest first.

    A layer that the checkpoint has at 4 or 8 bits can be served at those or at 16. One
    that mixes both, or that keeps matrices unquantised among quantised ones, can be
    served at 16 or more, unless the latter are to be rounded. Any other layer can be
    served at all bits, those of a checkpoint without wider floats at up to 16.

    Raises:
        CheckpointError: The head cannot be served at its bits.
    """
    found = tuple(
        _shared_bits(stored, stored.names.layer(layer))
        for layer in range(stored.architecture.num_layers)
    )
    check_bits(stored, layers=(), head=head)
    return found


def kept_matrices(stored: CheckpointTensors) -> tuple[str, ...]:
    """Returns the names of matrices of layers that a quantised checkpoint keeps unquantised."""
    return tuple(
        file.module
        for layer in range(stored.architecture.num_layers)
        for tensor, file in stored.names.layer(layer)
        if tensor.is_matrix and stored.is_kept(file)
    )


def rounding_note(stored: CheckpointTensors, served: Collection[Bits]) -> str | None:
    """Returns a remark on weights that 16 bits cannot hold; None if there are none.

    There are none either if all weights are served at 32 bits.
    """
    if not stored.wide_types or min(served) == 32:
        return None
    return f"checkpoint {stored.reader.folder}: holds {' and '.join(stored.wide_types)} weights, which are rounded to bfloat16 where they are served at 16 bits (relative error up to 0.2 %); to serve them as they are, plan with --bits 32 --head-bits 32"


def _shared_bits(stored: CheckpointTensors, sources: Sources) -> tuple[Bits, ...]:
    allowed = set(ALL_BITS)
    for tensor, file in sources:
        if tensor.is_matrix:
            allowed &= set(stored.allowed_bits(file))
    return tuple(bits for bits in ALL_BITS if bits in allowed)
