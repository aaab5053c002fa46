"""Writes the weights a strategy serves as a checkpoint of their own, layer by layer.

The integers and scales are those that loading the strategy would place on devices, so a
model of the new folder is the model that was served. Its names are the usual ones of its
family, its format is compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from llmpq_jax.arch.families._quantization import KEY
from llmpq_jax.arch.families._read_config import read_json
from llmpq_jax.checkpoint.formats import QuantizedMatrix
from llmpq_jax.checkpoint.formats.compressed_tensors import Scheme
from llmpq_jax.checkpoint.formats.compressed_writer import (
    description,
    packed_tensors,
    scheme_of,
)
from llmpq_jax.checkpoint.load import Weights, load_embedding, load_head, load_layer
from llmpq_jax.checkpoint.names import HEAD, CheckpointNames, Sources
from llmpq_jax.checkpoint.shard_writer import ShardWriter
from llmpq_jax.checkpoint.source import Source
from llmpq_jax.checkpoint.store import StoredWeights
from llmpq_jax.errors import UnsupportedModelError
from llmpq_jax.files import write_text
from llmpq_jax.quant import QArray
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import MIB

Kind = Literal["embedding", "layer", "head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenPart:
    """The embedding, one layer, or the head.

    Attributes:
        kind: Which of them.
        bits: Of its matrices.
        bytes_before: In the checkpoint it was read from; a tied head has none.
        bytes_after: In the new one.
    """

    kind: Kind
    bits: Bits
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Part:
    kind: Kind
    bits: Bits
    found: Sources
    written: Sources
    weights: Weights


def write_served_weights(
    source: Source,
    strategy: Strategy,
    folder: Path,
    *,
    shard_bytes: int = 256 * MIB,
    on_part: Callable[[], None] = lambda: None,
) -> tuple[WrittenPart, ...]:
    """Writes weights and config.json into a folder.

    Args:
        source: Of the strategy.
        strategy: Says the bits.
        folder: That is there, and empty.
        shard_bytes: As in `ShardWriter`.
        on_part: Called after the embedding, each layer, and the head.

    Raises:
        CheckpointError: The checkpoint is damaged, or the disk is full.
        UnsupportedModelError: The family keeps several matrices in one, or the
            checkpoint one with act-order.
    """
    shards = ShardWriter(folder, shard_bytes=shard_bytes)
    schemes: dict[str, Scheme] = {}
    plain: list[str] = []
    parts: list[WrittenPart] = []
    stored = StoredWeights(source.reader, source.architecture)
    read: set[str] = set()
    written: set[str] = set()
    for part in _parts(source, strategy, stored.names):
        tensors = _file_tensors(source.reader.folder, part, written, schemes, plain)
        shards.add(tensors)
        written |= tensors.keys()
        names = {name for _, file in part.found for name in stored.check(file)} - read
        read |= names
        parts.append(
            WrittenPart(
                kind=part.kind,
                bits=part.bits,
                bytes_before=sum(map(stored.reader.num_bytes, names)),
                bytes_after=sum(array.nbytes for array in tensors.values()),
            )
        )
        # Or they would be held while the next part is loaded.
        del part, tensors
        on_part()
    shards.finish()
    _write_config(source.reader.folder, folder, schemes, plain)
    return tuple(parts)


def _parts(
    source: Source, strategy: Strategy, found: CheckpointNames
) -> Iterator[_Part]:
    """Loads a part as it would be served, when it is asked for."""
    reader, architecture = source.reader, source.architecture
    precision = strategy.precision
    ties_head = architecture.ties_head and precision.head_bits == 16
    target = CheckpointNames(replace(architecture, ties_head=ties_head))
    if any(file.fused_part is not None for _, file in target.layer(0)):
        msg = f"checkpoint {reader.folder}: {architecture.family} keeps query, key and value in one matrix: implemented are families that keep them apart; serve the strategy from this checkpoint"
        raise UnsupportedModelError(msg)
    yield _Part(
        kind="embedding",
        bits=16,
        found=found.embedding(),
        written=target.embedding(),
        weights=load_embedding(reader, architecture),
    )
    for layer, bits in enumerate(strategy.bits):
        weights = load_layer(
            reader,
            architecture,
            layer,
            bits=bits,
            group_size=precision.group_size,
            rounded=source.rounded,
        )
        yield _Part(
            kind="layer",
            bits=bits,
            found=found.layer(layer),
            written=target.layer(layer),
            weights=weights,
        )
        del weights
    yield _Part(
        kind="head",
        bits=precision.head_bits,
        found=found.head(),
        written=target.head(),
        weights=load_head(
            reader, architecture, bits=precision.head_bits, rounded=source.rounded
        ),
    )


def _file_tensors(
    folder: Path,
    part: _Part,
    written: set[str],
    schemes: dict[str, Scheme],
    plain: list[str],
) -> dict[str, np.ndarray]:
    """Returns a part's tensors as they are written, and notes how its matrices are.

    Args:
        folder: That it is from.
        part: As it would be served.
        written: Names that are written already.
        schemes: Takes the modules of few bits.
        plain: Takes the modules at 16 bits.
    """
    tensors: dict[str, np.ndarray] = {}
    for tensor, file in part.written:
        weight = part.weights[tensor.name]
        is_head = tensor.name == "vocabulary.weight"
        module = HEAD.removesuffix(".weight") if is_head else file.module
        if isinstance(weight, QArray):
            if weight.permutation is not None:
                msg = f"checkpoint {folder}: {file.module} has act-order, which newer compressed-tensors do not know: implemented is writing groups in order; serve the strategy from this checkpoint"
                raise UnsupportedModelError(msg)
            matrix = _on_host(weight)
            schemes[module] = scheme_of(matrix)
            for suffix, array in packed_tensors(matrix).items():
                tensors[f"{module}.{suffix}"] = array
            continue
        if tensor.is_matrix:
            plain.append(module)
        if file.name not in written:  # a tied head is the embedding
            array = np.asarray(weight)
            array = array.T if file.is_transposed else array
            tensors[file.name] = np.ascontiguousarray(array)
    return tensors


def _on_host(weight: QArray) -> QuantizedMatrix:
    zero_point = weight.zero_point
    return QuantizedMatrix(
        values=np.asarray(weight.values),
        scale=np.asarray(weight.scale),
        bits=weight.bits,
        zero_point=None if zero_point is None else np.asarray(zero_point),
    )


def _write_config(
    before: Path, folder: Path, schemes: dict[str, Scheme], plain: list[str]
) -> None:
    values = read_json(before / "config.json")
    values.pop(KEY, None)
    if HEAD.removesuffix(".weight") in schemes:
        values["tie_word_embeddings"] = False
    if schemes:
        values[KEY] = description(schemes, plain)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_text(folder / "config.json", text + "\n")
