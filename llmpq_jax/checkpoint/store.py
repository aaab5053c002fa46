"""A checkpoint's weights in our layout, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from llmpq_jax.checkpoint.calibrated import CalibratedWeights, LayerOrHead
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.formats import QuantizedMatrix
from llmpq_jax.checkpoint.host_tensor import HostTensor
from llmpq_jax.checkpoint.names import FileTensor, Sources
from llmpq_jax.quant import QArray
from llmpq_jax.schema.precision import Bits, HeadBits, VectorBits


class WeightStore:
    """A model's weights, from its checkpoint and from calibrated weights if there are any.

    Iterators hold one tensor of the file at a time; a consumer that drops each tensor
    before it asks for the next holds no more than that in host memory. A matrix that
    the checkpoint has at the requested bits is read as its integers and scales.

    Attributes:
        reader: The checkpoint's reader.
        architecture: Architecture of the model.
        calibrated: Source of matrices at 4 and 8 bits; None to take them from the
            checkpoint.
        tensors: The checkpoint's tensors by our names.
    """

    def __init__(
        self, tensors: CheckpointTensors, *, calibrated: CalibratedWeights | None = None
    ) -> None:
        """Takes a checkpoint's tensors; no weight is read yet."""
        self.reader = tensors.reader
        self.architecture = tensors.architecture
        self.calibrated = calibrated
        self.tensors = tensors

    def with_calibrated(self, calibrated: CalibratedWeights) -> WeightStore:
        """Returns the same model with matrices at 4 and 8 bits from another folder."""
        return WeightStore(self.tensors, calibrated=calibrated)

    def embedding(self, *, bits: VectorBits = 16) -> Iterator[HostTensor]:
        """Reads the weights before the first layer; see `layer`."""
        return self._read(self.tensors.names.embedding(), bits=bits)

    def layer(self, layer: int, *, bits: Bits) -> Iterator[HostTensor]:
        """Reads the weights of a decoder layer, its matrices to be served at some bits.

        Raises:
            CheckpointError: A tensor is missing, damaged, or of another shape, or cannot
                be served at these bits.
        """
        return self._layer_or_head(layer, self.tensors.names.layer(layer), bits)

    def head(self, *, bits: HeadBits) -> Iterator[HostTensor]:
        """Reads the weights after the last layer; see `layer`.

        A tied head is the embedding read again and transposed, so that the last stage
        needs nothing of the first.
        """
        return self._layer_or_head("head", self.tensors.names.head(), bits)

    def _layer_or_head(
        self, which: LayerOrHead, sources: Sources, bits: Bits
    ) -> Iterator[HostTensor]:
        """Reads a layer or the head, its matrices from the calibrated weights if any."""
        if self.calibrated is None or bits in (16, 32):
            yield from self._read(sources, bits=bits)
            return
        matrices = self.calibrated.read(which, bits)
        others = tuple(source for source in sources if not source[0].is_matrix)
        yield from self._read(others, bits=bits)
        for spec, _ in sources:
            if spec.is_matrix:
                yield HostTensor.of(spec, matrices.pop(spec.name), bits=bits)

    def _read(self, sources: Sources, *, bits: Bits) -> Iterator[HostTensor]:
        """Reads the checkpoint's tensors, those of a fused tensor with one reading."""

        def name_of_reading(source: tuple[object, FileTensor]) -> str:
            file = source[1]
            return file.name if self.tensors.format_of(file) is None else file.module

        by_reading = sorted(sources, key=name_of_reading)
        for _, group in groupby(by_reading, key=name_of_reading):
            fused = list(group)
            spec, file = fused[0]
            if spec.is_matrix:
                self.tensors.require_bits(file, bits)
            found = self.tensors.read(file)
            if isinstance(found, QuantizedMatrix):
                yield HostTensor.of(spec, _at_bits(found, bits), bits=bits)
            else:
                for spec, file in fused:
                    yield HostTensor.of(spec, file.to_ours(found), bits=bits)
            del found


def _at_bits(matrix: QuantizedMatrix, bits: Bits) -> QArray | np.ndarray:
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
