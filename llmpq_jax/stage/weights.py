"""The weights of a stage's modules: from the cache, or else from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax

from llmpq_jax.arch.tensors import head_tensors, layer_tensors
from llmpq_jax.checkpoint.calibrated import LayerOrHead
from llmpq_jax.checkpoint.host_tensor import HostTensor
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.checkpoint.weights_cache import (
    CacheKey,
    NotCachedError,
    WeightsCache,
    source_key,
    weights_key,
)
from llmpq_jax.schema.precision import Bits, HeadBits, VectorBits
from llmpq_jax.stage.sharding import StageSharding


@runtime_checkable
class StageWeights(Protocol):
    """Weights of a stage on its devices, loaded when they are asked for."""

    def embedding(self, bits: VectorBits) -> Weights:
        """Returns the weights before the first layer."""
        ...

    def layer(self, layer: int, bits: Bits) -> Weights:
        """Returns the weights of one layer, its matrices at these bits."""
        ...

    def head(self, bits: HeadBits) -> Weights:
        """Returns the weights after the last layer."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CheckpointWeights:
    """Weights that are read from a checkpoint, quantised and put on a stage's devices.

    Attributes:
        store: Weights of the model on the host.
        sharding: Devices of the stage.
        cache: Cache of rounded weights; None to round them at every start.
    """

    store: WeightStore
    sharding: StageSharding
    cache: WeightsCache | None
    _source: CacheKey | None = field(init=False)

    def __post_init__(self) -> None:
        # Integers that are stored somewhere already are read as quickly from there.
        is_rounded_here = self.store.calibrated is None and self.cache is not None
        source = source_key(self.store.reader) if is_rounded_here else None
        object.__setattr__(self, "_source", source)

    def embedding(self, bits: VectorBits) -> Weights:
        """Returns the weights before the first layer."""
        return self.sharding.put_weights(self.store.embedding(bits=bits))

    def layer(self, layer: int, bits: Bits) -> Weights:
        """Returns the weights of one layer, its matrices at these bits."""
        architecture, width = self.store.architecture, self.sharding.width
        tensors = (
            tensor.for_width(architecture, width)
            for tensor in self.store.layer(layer, bits=bits)
        )
        return self._through_cache(layer, bits, tensors)

    def head(self, bits: HeadBits) -> Weights:
        """Returns the weights after the last layer."""
        return self._through_cache("head", bits, self.store.head(bits=bits))

    def _through_cache(
        self, which: LayerOrHead, bits: Bits, tensors: Iterator[HostTensor]
    ) -> Weights:
        """Returns weights from the cache, or else reads tensors and caches the weights."""
        if self.cache is None or self._source is None or bits in (16, 32):
            return self.sharding.put_weights(tensors)
        key = weights_key(
            self._source,
            which,
            bits=bits,
            group_size=self.sharding.group_size,
            devices=self.sharding.devices,
        )
        try:
            return self._cached(self.cache, key, which)
        except NotCachedError:
            pass  # Leaving the handler frees what was put on devices before the failure.
        weights = self.sharding.put_weights(tensors)
        self.cache.write(key, weights)
        return weights

    def _cached(
        self, cache: WeightsCache, key: CacheKey, which: LayerOrHead
    ) -> Weights:
        describe = head_tensors if which == "head" else layer_tensors
        specs = {spec.name: spec for spec in describe(self.store.architecture)}
        weights: Weights = {}
        for name, weight in cache.read(key):
            served = self.sharding.put_served(specs[name], weight)
            weights[name] = jax.block_until_ready(served)
            del weight
        return weights
