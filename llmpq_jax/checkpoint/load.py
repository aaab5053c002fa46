"""Streams weights from a checkpoint to where they are served, one tensor at a time.

At no time does the host hold more than one tensor of the file and its copy on the way:
each is read, turned, placed, waited for and dropped before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, groupby

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from llmpq_jax.checkpoint.check import check_tensor
from llmpq_jax.checkpoint.names import CheckpointNames, Sources
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.rounded import Part, RoundedWeights
from llmpq_jax.kernels import Weight
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.precision import Bits, HeadBits
from llmpq_jax.spec.tensors import TensorSpec

Stored = np.ndarray | QArray
Place = Callable[[TensorSpec, Stored, Bits], Weight]
Weights = dict[str, Weight]


def load_layer(
    reader: CheckpointReader,
    architecture: Architecture,
    layer: int,
    *,
    bits: Bits,
    group_size: int = 128,
    rounded: RoundedWeights | None = None,
    place: Place | None = None,
) -> Weights:
    """Loads one decoder layer.

    Args:
        reader: Of the checkpoint.
        architecture: Of the model.
        layer: Counted from 0.
        bits: Of its matrices.
        group_size: Of int4, at most; unused where `place` is given.
        rounded: Where its matrices come from at few bits, if not from the checkpoint.
        place: Takes a tensor, its values and their bits, and returns what is served;
            by default it is quantised on JAX's default device. At 16 bits the values
            come as bfloat16 or float16, whichever the file has (bfloat16 if neither);
            where they are to be quantised, they come as the file has them.

    Raises:
        CheckpointError: A tensor is missing, damaged, or of another shape.
    """
    names = CheckpointNames(architecture, reader)
    sources = names.layer(layer)
    kept = rounded_tensors(rounded, layer, bits, sources)
    tensors = _read(reader, architecture, without(sources, kept))
    return place_tensors(
        chain(tensors, kept), bits=bits, group_size=group_size, place=place
    )


def load_embedding(
    reader: CheckpointReader, architecture: Architecture, *, place: Place | None = None
) -> Weights:
    """Loads what stands before the layers, at 16 bits; otherwise as `load_layer`."""
    names = CheckpointNames(architecture, reader)
    tensors = _read(reader, architecture, names.embedding())
    return place_tensors(tensors, bits=16, place=place)


def load_head(
    reader: CheckpointReader,
    architecture: Architecture,
    *,
    bits: HeadBits,
    rounded: RoundedWeights | None = None,
    place: Place | None = None,
) -> Weights:
    """Loads what stands after the layers; otherwise as `load_layer`.

    A tied head is the embedding read again and transposed, so that the last stage needs
    nothing of the first.
    """
    names = CheckpointNames(architecture, reader)
    sources = names.head()
    kept = rounded_tensors(rounded, "head", bits, sources)
    tensors = _read(reader, architecture, without(sources, kept))
    return place_tensors(chain(tensors, kept), bits=bits, place=place)


def rounded_tensors(
    rounded: RoundedWeights | None, part: Part, bits: Bits, sources: Sources
) -> list[tuple[TensorSpec, Stored]]:
    """Reads what a folder of rounded weights holds of some sources: their matrices."""
    if rounded is None or bits == 16:
        return []
    matrices = rounded.read(part, bits)
    return [
        (tensor, matrices[tensor.name]) for tensor, _ in sources if tensor.is_matrix
    ]


def without(sources: Sources, kept: list[tuple[TensorSpec, Stored]]) -> Sources:
    """Returns the sources of all other tensors."""
    names = {tensor.name for tensor, _ in kept}
    return tuple(source for source in sources if source[0].name not in names)


def place_tensors(
    tensors: Iterable[tuple[TensorSpec, Stored]],
    *,
    bits: Bits,
    group_size: int = 128,
    place: Place | None = None,
) -> Weights:
    """Places tensors one by one, waiting for each, as `load_layer` does."""
    place = place or partial(_place, group_size=group_size)
    weights: Weights = {}
    for tensor, array in tensors:
        kept_bits: Bits = bits if tensor.is_matrix else 16
        values = (
            array
            if kept_bits != 16 or isinstance(array, QArray)
            else _in_16_bits(array)
        )
        # JAX returns before the work is done; unawaited tensors would pile up.
        weights[tensor.name] = jax.block_until_ready(place(tensor, values, kept_bits))
        del array, values
    return weights


def _read(
    reader: CheckpointReader, architecture: Architecture, sources: Sources
) -> Iterator[tuple[TensorSpec, np.ndarray]]:
    """Reads tensors, those of one fused tensor together so that it is read once."""
    by_file = sorted(sources, key=lambda source: source[1].name)
    for name, group in groupby(by_file, key=lambda source: source[1].name):
        parts = list(group)
        check_tensor(reader, architecture, parts[0][1])
        stored = reader.read(name)
        for tensor, file in parts:
            yield tensor, file.to_ours(stored)
        del stored


def _place(tensor: TensorSpec, array: Stored, bits: Bits, *, group_size: int) -> Weight:
    if isinstance(array, QArray):
        return jax.tree.map(jnp.asarray, array)
    if bits == 16:
        return jnp.asarray(array)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return quantize(jnp.asarray(array), bits=bits, group_size=group_size)


def _in_16_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype.itemsize == 2:
        return array
    return array.astype(ml_dtypes.bfloat16)
