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

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import TensorSpec
from llmpq_jax.checkpoint.calibrated import Part, RoundedWeights
from llmpq_jax.checkpoint.formats import QuantizedMatrix
from llmpq_jax.checkpoint.names import FileTensor, Sources
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.store import StoredWeights
from llmpq_jax.kernels import Weight
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.schema.precision import Bits, HeadBits

# On the host: a plain tensor, or the integers and scales of a quantised checkpoint.
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
            where they are to be quantised, they come as the file has them, and where
            the file holds them in these very bits, as its integers and scales.

    Raises:
        CheckpointError: A tensor is missing, damaged, or of another shape, or is
            quantised to bits that are neither 16 nor those asked for.
    """
    stored = StoredWeights(reader, architecture)
    sources = stored.names.layer(layer)
    kept = rounded_tensors(rounded, layer, bits, sources)
    tensors = read_sources(stored, without(sources, kept), bits=bits)
    return place_tensors(
        chain(tensors, kept), bits=bits, group_size=group_size, place=place
    )


def load_embedding(
    reader: CheckpointReader, architecture: Architecture, *, place: Place | None = None
) -> Weights:
    """Loads what stands before the layers, at 16 bits; otherwise as `load_layer`."""
    stored = StoredWeights(reader, architecture)
    tensors = read_sources(stored, stored.names.embedding(), bits=16)
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
    stored = StoredWeights(reader, architecture)
    sources = stored.names.head()
    kept = rounded_tensors(rounded, "head", bits, sources)
    tensors = read_sources(stored, without(sources, kept), bits=bits)
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
        values = array if isinstance(array, QArray) else _in_16_bits(array, kept_bits)
        # JAX returns before the work is done; unawaited tensors would pile up.
        weights[tensor.name] = jax.block_until_ready(place(tensor, values, kept_bits))
        del array, values
    return weights


def read_sources(
    stored: StoredWeights, sources: Sources, *, bits: Bits
) -> Iterator[tuple[TensorSpec, Stored]]:
    """Reads tensors in our layout, those of one fused tensor at once.

    Args:
        stored: The checkpoint.
        sources: What to read.
        bits: At which its matrices will be served; quantised ones come at these.

    Raises:
        CheckpointError: As `load_layer`.
    """
    by_module = sorted(sources, key=lambda source: _read_once(stored, source[1]))
    for _, group in groupby(
        by_module, key=lambda source: _read_once(stored, source[1])
    ):
        parts = list(group)
        tensor, file = parts[0]
        if tensor.is_matrix:
            stored.require_bits(file, bits)
        found = stored.read(file)
        if isinstance(found, QuantizedMatrix):
            yield tensor, _as_planned(found, bits)
        else:
            for tensor, file in parts:
                yield tensor, file.to_ours(found)
        del found


def _as_planned(matrix: QuantizedMatrix, bits: Bits) -> Stored:
    """Returns a quantised checkpoint's matrix at its own bits, or at 16 dequantised."""
    if bits == 16:
        return matrix.dequantized()
    assert bits == matrix.bits, "other bits are refused before they are read"
    return QArray(
        values=matrix.values,
        scale=matrix.scale,
        bits=matrix.bits,
        zero_point=matrix.zero_point,
        permutation=matrix.permutation,
    )


def _read_once(stored: StoredWeights, file: FileTensor) -> str:
    """Names what one reading brings: the parts of a fused tensor share it."""
    return file.module if stored.is_quantized(file) else file.name


def _place(tensor: TensorSpec, array: Stored, bits: Bits, *, group_size: int) -> Weight:
    if isinstance(array, QArray):
        return jax.tree.map(jnp.asarray, array)
    if bits == 16:
        return jnp.asarray(array)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return quantize(jnp.asarray(array), bits=bits, group_size=group_size)


def _in_16_bits(array: np.ndarray, bits: Bits) -> np.ndarray:
    """Rounds what is served at 16 bits, unless it has them already."""
    if bits != 16 or array.dtype.itemsize == 2:
        return array
    return array.astype(ml_dtypes.bfloat16)
