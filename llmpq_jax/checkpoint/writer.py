"""Writes the weights that a strategy serves as a checkpoint, layer by layer.

The integers and scales are those that loading the strategy would put on devices, so the
new folder's model is the model that was served. Its names are the usual ones of its
family, its format is compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from llmpq_jax.arch.families import QUANTIZATION, read_json
from llmpq_jax.checkpoint.formats import QuantizedMatrix
from llmpq_jax.checkpoint.formats.compressed_tensors import Scheme
from llmpq_jax.checkpoint.formats.compressed_writer import (
    description,
    packed_tensors,
    scheme_of,
)
from llmpq_jax.checkpoint.load import Weights, load_weights
from llmpq_jax.checkpoint.names import HEAD, CheckpointNames, Sources
from llmpq_jax.checkpoint.shard_writer import ShardWriter
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.errors import UnsupportedModelError
from llmpq_jax.files import write_text
from llmpq_jax.quant import QArray
from llmpq_jax.schema.precision import Bits, vector_bits
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import MIB

Kind = Literal["embedding", "layer", "head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenModule:
    """The embedding, one layer, or the head as it was written.

    Attributes:
        kind: Kind of the module.
        bits: Bits of its matrices.
        bytes_before: Bytes of its tensors in the checkpoint that was read; a tensor
            that modules share counts for the first of them.
        bytes_after: Bytes of its tensors in the new checkpoint.
    """

    kind: Kind
    bits: Bits
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Module:
    kind: Kind
    bits: Bits
    sources: Sources
    targets: Sources
    weights: Weights


def write_served_weights(
    store: WeightStore,
    strategy: Strategy,
    folder: Path,
    *,
    shard_bytes: int = 256 * MIB,
    on_module: Callable[[], None] = lambda: None,
) -> tuple[WrittenModule, ...]:
    """Writes weights and config.json of a strategy's model into an empty folder.

    `on_module` is called after the embedding, each layer, and the head.

    Raises:
        CheckpointError: The checkpoint is damaged, or the disk is full.
        UnsupportedModelError: The family keeps several matrices in one, or the
            checkpoint one with act-order.
    """
    shards = ShardWriter(folder, shard_bytes=shard_bytes)
    schemes: dict[str, Scheme] = {}
    plain: list[str] = []
    results: list[WrittenModule] = []
    read: set[str] = set()
    written: set[str] = set()
    for module in _modules(store, strategy):
        tensors = _file_tensors(store.reader.folder, module, written, schemes, plain)
        shards.add(tensors)
        written |= tensors.keys()
        names = {
            name for _, file in module.sources for name in store.tensors.check(file)
        }
        results.append(
            WrittenModule(
                kind=module.kind,
                bits=module.bits,
                bytes_before=sum(map(store.reader.num_bytes, names - read)),
                bytes_after=sum(array.nbytes for array in tensors.values()),
            )
        )
        read |= names
        # Or they would be held while the next module is loaded.
        del module, tensors
        on_module()
    shards.finish()
    has_head = any(name.startswith(HEAD.removesuffix("weight")) for name in written)
    _write_config(store.reader.folder, folder, schemes, plain, has_head=has_head)
    return tuple(results)


def _modules(store: WeightStore, strategy: Strategy) -> Iterator[_Module]:
    """Loads the modules one by one, as they would be served."""
    architecture, precision = store.architecture, strategy.precision
    sources = store.tensors.names
    ties_head = sources.shares_table and precision.head_bits in (16, 32)
    targets = CheckpointNames(replace(architecture, ties_head=ties_head))
    if any(file.fused_part is not None for _, file in targets.layer(0)):
        msg = f"checkpoint {store.reader.folder}: {architecture.family} keeps query, key and value in one matrix: implemented are families that keep them apart; serve the strategy from this checkpoint"
        raise UnsupportedModelError(msg)
    looked_up = vector_bits(precision.head_bits)
    yield _Module(
        kind="embedding",
        bits=looked_up,
        sources=sources.embedding(),
        targets=targets.embedding(),
        weights=load_weights(store.embedding(bits=looked_up)),
    )
    for layer, bits in enumerate(strategy.bits):
        yield _Module(
            kind="layer",
            bits=bits,
            sources=sources.layer(layer),
            targets=targets.layer(layer),
            weights=load_weights(
                store.layer(layer, bits=bits), group_size=precision.group_size
            ),
        )
    yield _Module(
        kind="head",
        bits=precision.head_bits,
        sources=sources.head(),
        targets=targets.head(),
        weights=load_weights(store.head(bits=precision.head_bits)),
    )


def _file_tensors(
    folder: Path,
    module: _Module,
    written: set[str],
    schemes: dict[str, Scheme],
    plain: list[str],
) -> dict[str, np.ndarray]:
    """Returns a module's tensors as they are written, without those written before.

    Formats of quantised matrices, and names of those that are not, are added.
    """
    tensors: dict[str, np.ndarray] = {}
    for tensor, file in module.targets:
        weight = module.weights[tensor.name]
        is_head = tensor.name == "vocabulary.weight"
        name = HEAD.removesuffix(".weight") if is_head else file.module
        if isinstance(weight, QArray):
            if weight.permutation is not None:
                msg = f"checkpoint {folder}: {file.module} has act-order, which newer compressed-tensors do not know: implemented is writing groups in order; serve the strategy from this checkpoint"
                raise UnsupportedModelError(msg)
            matrix = _on_host(weight)
            schemes[name] = scheme_of(matrix)
            for suffix, array in packed_tensors(matrix).items():
                tensors[f"{name}.{suffix}"] = array
            continue
        if tensor.is_matrix:
            plain.append(name)
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
    before: Path,
    folder: Path,
    schemes: dict[str, Scheme],
    plain: list[str],
    *,
    has_head: bool,
) -> None:
    values = read_json(before / "config.json")
    values.pop(QUANTIZATION, None)
    if has_head:
        values["tie_word_embeddings"] = False
    if schemes:
        values[QUANTIZATION] = description(schemes, plain)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_text(folder / "config.json", text + "\n")
