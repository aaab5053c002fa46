"""A checkpoint's tensors, plain or quantised, checked against what a model needs.

Everything but `read` works from headers; JAX is not imported.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import ml_dtypes
import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.formats import (
    Format,
    FormatTensor,
    Linear,
    QuantizedMatrix,
    read_format,
)
from llmpq_jax.checkpoint.names import (
    HEAD,
    CheckpointNames,
    FileTensor,
    all_sources,
)
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.precision import ALL_BITS, USUAL_BITS, Bits

WEIGHT_DTYPES = tuple(
    np.dtype(kind) for kind in (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)
)


class CheckpointTensors:
    """Checks and reads the tensors of one model in one checkpoint.

    Attributes:
        reader: The checkpoint's reader.
        architecture: Architecture of the model.
        format: Format of quantised matrices; None if the checkpoint has none.
        names: Names of the model's tensors in the checkpoint.
        rounds_unquantized: True to round matrices of layers that a quantised checkpoint
            keeps at 16 bits or more.
    """

    def __init__(
        self,
        reader: CheckpointReader,
        architecture: Architecture,
        *,
        rounds_unquantized: bool = False,
    ) -> None:
        """Reads how the checkpoint is quantised, if it is.

        Raises:
            UnsupportedModelError: The checkpoint's format is not implemented.
        """
        self.reader = reader
        self.architecture = architecture
        self.rounds_unquantized = rounds_unquantized
        self.format: Format | None = read_format(reader.folder)
        self.names = CheckpointNames(architecture, reader)

    @classmethod
    def open(
        cls, folder: Path, *, rounds_unquantized: bool = False
    ) -> CheckpointTensors:
        """Opens the checkpoint in a folder, of the architecture that its config.json says.

        Raises:
            CheckpointError: The folder holds no checkpoint, or its headers are damaged.
            UnsupportedModelError: The model or its format is not implemented.
        """
        return cls(
            CheckpointReader(folder),
            read_architecture(folder),
            rounds_unquantized=rounds_unquantized,
        )

    def format_of(self, file: FileTensor) -> Format | None:
        """Returns the format of a matrix that the checkpoint has quantised, or None."""
        is_quantized = (
            self.format is not None
            and file.is_transposed
            and f"{file.module}.{self.format.marker}" in self.reader
        )
        return self.format if is_quantized else None

    def is_kept(self, file: FileTensor) -> bool:
        """Returns whether a quantised checkpoint keeps a matrix of a layer unquantised.

        Its maker found that rounding it costs too much, so no plan rounds it unasked.
        """
        return (
            self.format is not None
            and self.names.is_in_layer(file)
            and self.format_of(file) is None
        )

    def allowed_bits(self, file: FileTensor) -> tuple[Bits, ...]:
        """Returns the bits that a matrix can be served at, highest first."""
        found = self.format_of(file)
        if found is not None:
            return (16, found.bits(self._linear(file)))
        served = ALL_BITS if self.wide_types else USUAL_BITS
        if self.is_kept(file) and not self.rounds_unquantized:
            return tuple(bits for bits in served if bits in (16, 32))
        return served

    @cached_property
    def wide_types(self) -> tuple[str, ...]:
        """Types of plain tensors that have more than 16 bits, such as "float32"."""
        plain = {
            self.reader.dtype(file.name)
            for _, file in all_sources(self.names)
            if file.name in self.reader and self.format_of(file) is None
        }
        return tuple(sorted(each.name for each in plain if each.itemsize > 2))

    def require_bits(self, file: FileTensor, bits: Bits) -> None:
        """Checks that a matrix can be served at these bits.

        Raises:
            CheckpointError: The checkpoint has it quantised to other bits, or keeps it
                unquantised among quantised ones.
        """
        allowed = self.allowed_bits(file)
        if bits in allowed:
            return
        where = f"checkpoint {self.reader.folder}: {file.module}"
        if bits == 32:
            msg = f"{where} has no more than 16 bits, the plan asks for 32: expected 16 or fewer, which serve it as it is; change the plan's bits there"
        elif min(allowed) == 16:
            assert self.format is not None
            msg = f"{where} is kept at 16 bits (the others are {self.format.name}), the plan asks for {bits}: expected 16, as its maker left it; plan again, with --round-unquantized if it is to be rounded nevertheless"
        else:
            assert self.format is not None
            msg = f"{where} holds integers of {allowed[-1]} bits ({self.format.name}), the plan asks for {bits}: expected {allowed[-1]} or 16; change the plan's bits there, or plan for the unquantised checkpoint"
        raise CheckpointError(msg)

    def check(self, file: FileTensor) -> set[str]:
        """Checks the existence, shape and type of a tensor, by headers.

        Returns the names of the file's tensors that it is made of.

        Raises:
            CheckpointError: It is missing, or has another shape or type.
        """
        found = self.format_of(file)
        if found is None:
            self._check_plain(file)
            return {file.name}
        tensors = found.file_tensors(self._linear(file), self.reader)
        for tensor in tensors:
            self._check_format_tensor(found, file, tensor)
        return {f"{file.module}.{tensor.suffix}" for tensor in tensors}

    def read(self, file: FileTensor) -> np.ndarray | QuantizedMatrix:
        """Checks and reads a tensor: plain as it is, or quantised in our layout.

        Raises:
            CheckpointError: It is not as `check` wants it, or the file is damaged.
        """
        self.check(file)
        found = self.format_of(file)
        if found is None:
            return self.reader.read(file.name)
        linear = self._linear(file)
        tensors = {
            tensor.suffix: self.reader.read(f"{file.module}.{tensor.suffix}")
            for tensor in found.file_tensors(linear, self.reader)
        }
        return found.matrix(linear, tensors)

    def is_zero_bias(self, name: str) -> bool:
        """Returns whether a tensor is a bias of zeros, as AutoGPTQ gave every matrix."""
        module, _, kind = name.rpartition(".")
        return (
            kind == "bias"
            and self.format is not None
            and f"{module}.{self.format.marker}" in self.reader
            and not self.reader.read(name).any()
        )

    def _linear(self, file: FileTensor) -> Linear:
        num_features, num_contracted = file.shape
        if file.fused_part is not None:
            num_features //= 3
        return Linear(
            folder=self.reader.folder,
            module=file.module,
            num_contracted=num_contracted,
            num_features=num_features,
        )

    def _check_format_tensor(
        self, found: Format, file: FileTensor, tensor: FormatTensor
    ) -> None:
        name = f"{file.module}.{tensor.suffix}"
        shown = [length if length >= 0 else "any" for length in tensor.shape]
        expected = f"expected {' or '.join(tensor.dtypes)} {shown} for a {found.name} matrix [{file.shape[1]}, {file.shape[0]}]"
        if name not in self.reader:
            msg = f"checkpoint {self.reader.folder}: tensor {name!r} is missing: {expected}; fetch the checkpoint again"
            raise CheckpointError(msg)
        shape, dtype = self.reader.shape(name), self.reader.dtype(name)
        is_shape = len(shape) == len(tensor.shape) and all(
            want in (-1, have) for want, have in zip(tensor.shape, shape, strict=True)
        )
        if not is_shape or dtype.name not in tensor.dtypes:
            msg = f"checkpoint {self.reader.folder}: tensor {name!r}: found {dtype.name} {list(shape)}, {expected}; check that config.json is of these weights"
            raise CheckpointError(msg)

    def _check_plain(self, file: FileTensor) -> None:
        reader, model = self.reader, describe(self.architecture)
        if self.format is not None and f"{file.module}.{self.format.marker}" in reader:
            msg = f"checkpoint {reader.folder}: {file.module} is quantised ({self.format.name}): implemented are plain embeddings; choose a checkpoint that keeps them at 16 bits"
            raise CheckpointError(msg)
        if file.fused_part is not None and self.format is not None:
            fused = file.name.removesuffix(".weight")
            if f"{fused}.{self.format.marker}" in reader:
                msg = f"checkpoint {reader.folder}: {fused} holds query, key and value quantised in one matrix ({self.format.name}): implemented are plain ones; choose the unquantised checkpoint"
                raise CheckpointError(msg)
        if file.name not in reader:
            hint = ""
            if file.name == HEAD:
                hint = ", whose config.json does not tie the head to the embedding"
            msg = f"checkpoint {reader.folder}: tensor {file.name!r} is missing: expected it with shape {list(file.shape)} for {model}{hint}"
            raise CheckpointError(msg)
        shape = reader.shape(file.name)
        if shape != file.shape:
            msg = f"checkpoint {reader.folder}: tensor {file.name!r}: found shape {list(shape)}, expected {list(file.shape)} for {model}; check that config.json is of these weights"
            raise CheckpointError(msg)
        dtype = reader.dtype(file.name)
        if dtype not in WEIGHT_DTYPES:
            kinds = ", ".join(kind.name for kind in WEIGHT_DTYPES)
            msg = f"checkpoint {reader.folder}: tensor {file.name!r}: found {dtype.name}, expected one of {kinds}; choose a checkpoint whose config.json says how it is quantised"
            raise CheckpointError(msg)


def describe(architecture: Architecture) -> str:
    """Returns the name of a kind of model, for messages."""
    return f"a {architecture.family} model of {architecture.num_layers} layers"
