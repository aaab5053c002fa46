"""Where a stage's arrays live: one device, or a mesh that cuts them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import TensorSpec, shard_for
from llmpq_jax.errors import StrategyError
from llmpq_jax.kernels import PanelArray, Weight, serve_matrix, serving_layout
from llmpq_jax.model import LayerCache, make_cache
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.quant.shard import with_groups_cut
from llmpq_jax.schema.precision import Bits, KvBits
from llmpq_jax.stage.emulated_devices import JaxDevice

TENSOR_AXIS = "tensor"


class Placement:
    """A stage's devices, and how weights, caches and activations lie on them."""

    def __init__(
        self, devices: tuple[JaxDevice, ...], *, group_size: int = 128
    ) -> None:
        """Takes the stage's devices; int4 groups hold at most `group_size` rows."""
        self.devices = devices
        self.group_size = group_size
        self.mesh = Mesh(
            np.asarray(devices), (TENSOR_AXIS,), axis_types=(AxisType.Auto,)
        )

    @property
    def width(self) -> int:
        """Devices that hold the stage together."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """JAX's name of their backend."""
        return self.devices[0].platform

    @property
    def replicated(self) -> NamedSharding:
        """The whole array on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def cache_sharding(self) -> NamedSharding:
        """Heads cut over the mesh."""
        return NamedSharding(self.mesh, CACHE_PARTITION)

    def put(self, array: Any) -> Any:
        """Brings an array or a tree of them here, whole, from the host or a stage."""
        return jax.device_put(array, self.replicated)

    def describe(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """Describes an array that is whole on each device, to compile for."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.replicated)

    def place_weight(
        self, tensor: TensorSpec, array: np.ndarray | QArray, bits: Bits
    ) -> Weight:
        """Brings a weight here; a matrix quantised on its way, and laid out to be read.

        The whole tensor is quantised before it is cut, so that the integers do not
        depend on how many devices hold it. What is quantised already is kept.

        Raises:
            StrategyError: A matrix whose rows are permuted would have to be cut.
        """
        shard = shard_for(tensor, self.width)
        if not tensor.is_matrix:
            assert not isinstance(array, QArray), "only matrices are quantised"
            spec = _partition(shard, array.ndim)
            return jax.device_put(array, NamedSharding(self.mesh, spec))
        served = (
            self._cut_matrix(array, bits, shard)
            if self.width > 1
            else serve_matrix(
                array, bits=bits, group_size=self.group_size, device=self.devices[0]
            )
        )
        in_panels = isinstance(served, PanelArray)
        return jax.tree.map(
            lambda leaf: self.put_leaf(tensor, leaf, in_panels=in_panels), served
        )

    def put_leaf(
        self, tensor: TensorSpec, leaf: jax.Array | np.ndarray, *, in_panels: bool
    ) -> jax.Array:
        """Brings one array of a weight here that is laid out to be read already."""
        shard = shard_for(tensor, self.width)
        return jax.device_put(leaf, self._leaf_sharding(leaf.ndim, shard, in_panels))

    def trace_weight(
        self, tensor: TensorSpec, array: jax.Array, bits: Bits
    ) -> tuple[Weight, list[NamedSharding]]:
        """Lays a whole weight out as `place_weight` would, while JAX only traces.

        Returns:
            The weight as it is served, and how each of its arrays lies on the mesh.
        """
        shard = shard_for(tensor, self.width)
        if not tensor.is_matrix:
            return array, [NamedSharding(self.mesh, _partition(shard, array.ndim))]
        served = self._serve(array, bits, shard)
        return served, [
            self._leaf_sharding(leaf.ndim, shard, isinstance(served, PanelArray))
            for leaf in jax.tree.leaves(served)
        ]

    def _leaf_sharding(
        self, num_axes: int, shard: str, in_panels: bool
    ) -> NamedSharding:
        partition = (
            _panel_partition(shard) if in_panels else _partition(shard, num_axes)
        )
        return NamedSharding(self.mesh, partition)

    def _cut_matrix(self, array: np.ndarray | QArray, bits: Bits, shard: str) -> Weight:
        return self._serve(jax.device_put(array, self.devices[0]), bits, shard)

    def _serve(self, weight: jax.Array | QArray, bits: Bits, shard: str) -> Weight:
        if bits != 16 and not isinstance(weight, QArray):
            weight = quantize(weight, bits=bits, group_size=self.group_size)
        if isinstance(weight, QArray):
            if weight.permutation is not None:
                msg = f"the checkpoint quantised its weights in the order of their inputs' activations (act-order), and a stage of {self.width} devices would cut them across it: expected one device for each stage; change the strategy, or choose a checkpoint without act-order"
                raise StrategyError(msg)
            if shard == "rows":
                weight = with_groups_cut(weight, self.width)
        return serving_layout(
            weight,
            device=self.devices[0],
            num_cuts=self.width if shard == "columns" else 1,
            num_row_cuts=self.width if shard == "rows" else 1,
        )

    def empty_cache(
        self,
        architecture: Architecture,
        *,
        num_rows: int,
        num_slots: int,
        dtype: jnp.dtype,
        kv_bits: KvBits,
    ) -> LayerCache:
        """Allocates one layer's cache, its heads cut over the mesh."""
        return make_cache(
            partial(jnp.zeros, device=self.cache_sharding),
            architecture,
            num_rows=num_rows,
            num_slots=num_slots,
            dtype=dtype,
            kv_bits=kv_bits,
        )

    def describe_cache(
        self,
        architecture: Architecture,
        *,
        num_rows: int,
        num_slots: int,
        dtype: jnp.dtype,
        kv_bits: KvBits,
    ) -> LayerCache:
        """Describes what `empty_cache` allocates, to compile for."""
        return make_cache(
            partial(jax.ShapeDtypeStruct, sharding=self.cache_sharding),
            architecture,
            num_rows=num_rows,
            num_slots=num_slots,
            dtype=dtype,
            kv_bits=kv_bits,
        )


CACHE_PARTITION = PartitionSpec(None, None, TENSOR_AXIS, None)


def _partition(shard: str, num_axes: int) -> PartitionSpec:
    """Features lie along the last axis; groups, or rows, along the first."""
    if shard == "columns":
        return PartitionSpec(*([None] * (num_axes - 1)), TENSOR_AXIS)
    if shard == "rows":
        return PartitionSpec(TENSOR_AXIS, *([None] * (num_axes - 1)))
    return PartitionSpec()


def _panel_partition(shard: str) -> PartitionSpec:
    """Panels run along the features, the axis after them along the rows."""
    if shard == "columns":
        return PartitionSpec(TENSOR_AXIS, None, None)
    if shard == "rows":
        return PartitionSpec(None, TENSOR_AXIS, None)
    return PartitionSpec()
