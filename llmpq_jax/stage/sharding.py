"""How a stage's arrays are placed on its devices: whole on one, or cut over a mesh."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llmpq_jax.arch.tensors import TensorSpec, shard_for
from llmpq_jax.checkpoint.host_tensor import HostTensor
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.errors import StrategyError
from llmpq_jax.kernels import PanelArray, Weight, serve_matrix, serving_layout
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.quant.qarray import with_groups_cut
from llmpq_jax.schema.precision import Bits
from llmpq_jax.stage.emulated_devices import JaxDevice

TENSOR_AXIS = "tensor"


class StageSharding:
    """A stage's devices, and how weights, caches and activations are placed on them.

    Attributes:
        devices: JAX devices of the stage.
        group_size: Number of rows of an int4 group, at most.
        mesh: Mesh of the devices, with one axis.
    """

    def __init__(
        self, devices: tuple[JaxDevice, ...], *, group_size: int = 128
    ) -> None:
        """Makes a mesh of the stage's devices."""
        self.devices = devices
        self.group_size = group_size
        self.mesh = Mesh(
            np.asarray(devices), (TENSOR_AXIS,), axis_types=(AxisType.Auto,)
        )

    @property
    def width(self) -> int:
        """Number of devices, which hold the stage together."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """JAX's name of their backend."""
        return self.devices[0].platform

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of an array that is whole on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, array: Any) -> Any:
        """Puts an array, or a tree of them, on each device whole."""
        return jax.device_put(array, self.replicated)

    def describe(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """Describes an array that is whole on each device, to compile for."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.replicated)

    def put_weights(self, tensors: Iterable[HostTensor]) -> Weights:
        """Puts tensors on the devices one at a time, see `put_weight`."""
        weights: Weights = {}
        for tensor in tensors:
            # JAX returns before the work is done; unawaited tensors would pile up.
            weights[tensor.name] = jax.block_until_ready(self.put_weight(tensor))
            del tensor
        return weights

    def put_weight(self, tensor: HostTensor) -> Weight:
        """Puts a weight on the devices, quantised and in the layout kernels serve.

        The whole matrix is quantised before it is cut, so that the integers do not
        depend on the number of devices. Integers that a checkpoint has are kept.

        Raises:
            StrategyError: A matrix whose rows are permuted would have to be cut.
        """
        spec, values = tensor.spec, tensor.values
        if not spec.is_matrix:
            assert not isinstance(values, QArray), "only matrices are quantised"
            return self.put_served(spec, values)
        if self.width > 1:
            whole = jax.device_put(values, self.devices[0])
            served = self._serve(whole, tensor.bits, shard_for(spec, self.width))
        else:
            served = serve_matrix(
                values,
                bits=tensor.bits,
                group_size=self.group_size,
                device=self.devices[0],
            )
        return self.put_served(spec, served)

    def put_served(self, spec: TensorSpec, weight: Weight | np.ndarray) -> Weight:
        """Puts a weight on the devices that already has the layout kernels serve."""
        shard = shard_for(spec, self.width)
        in_panels = isinstance(weight, PanelArray)
        return jax.tree.map(
            lambda leaf: jax.device_put(
                leaf, self._leaf_sharding(leaf.ndim, shard, in_panels)
            ),
            weight,
        )

    def trace_weight(
        self, spec: TensorSpec, array: jax.Array, bits: Bits
    ) -> tuple[Weight, list[NamedSharding]]:
        """Returns a traced weight as it is served, and each array's sharding."""
        shard = shard_for(spec, self.width)
        served = self._serve(array, bits, shard) if spec.is_matrix else array
        return served, [
            self._leaf_sharding(leaf.ndim, shard, isinstance(served, PanelArray))
            for leaf in jax.tree.leaves(served)
        ]

    def _leaf_sharding(
        self, num_axes: int, shard: str, in_panels: bool
    ) -> NamedSharding:
        return NamedSharding(
            self.mesh, _partition(shard, num_axes, in_panels=in_panels)
        )

    def _serve(self, weight: jax.Array | QArray, bits: Bits, shard: str) -> Weight:
        if bits not in (16, 32) and not isinstance(weight, QArray):
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


CACHE_PARTITION = PartitionSpec(None, None, TENSOR_AXIS, None)


def _partition(shard: str, num_axes: int, *, in_panels: bool) -> PartitionSpec:
    """Cuts features along the last axis; groups, or rows, along the first.

    Panels, which are runs of features, come first, and rows after them.
    """
    if shard == "whole":
        return PartitionSpec()
    axis = num_axes - 1 if shard == "columns" else 0
    if in_panels:
        axis = 0 if shard == "columns" else 1
    return PartitionSpec(
        *(TENSOR_AXIS if each == axis else None for each in range(num_axes))
    )
