"""The planning problem: what a plan is made from, and what it may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.costmodel.quality import MAX_OMEGA
from llmpq_jax.planner.pins import Pin, check_pins
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.precision import (
    USUAL_BITS,
    Activations,
    Bits,
    HeadBits,
    KvBits,
    WireBits,
    check_activations,
)
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.workload import Workload

# Far beyond any use, and low enough that objectives are compared exactly.
_MAX_THETA = 1e12


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """A planning problem: the contents of the files that a request names, and its choices.

    Attributes:
        architecture: Architecture of the model.
        model: Name of the model for the strategy.
        cluster: Devices, in the order in which a pipeline may use them.
        measurements: Seconds of this model's layers on the cluster's kinds of device.
        sensitivity: Quality loss ω of each layer at each precision.
        workload: Prompts that are to be served.
        activations: Type of hidden states and of the cache.
        group_size: Maximum number of weights that share an int4 scale.
        bits: Precisions that a layer may have.
        layer_bits: Precisions that each layer of the checkpoint can have, of `bits`; empty
            if every layer can have all of them.
        rounds_unquantized: True if matrices that a quantised checkpoint keeps unquantised
            are rounded.
        head_bits: Precisions that the head may have; the planner chooses one.
        kv_bits: Precisions that the cache may have, as far as they were measured; 16 keeps
            it in the type of the activations.
        wire_bits: Precisions that hidden states may have on each hop between stages.
        tensor: Numbers of devices that may hold one stage; those above 1 are tried where
            they were measured, divide the model's heads, and fit a node.
        omega_budget: Maximum Σω. None with `theta` 0 means that of a model wholly at 8
            bits, or as little more as memory requires.
        theta: Seconds that a unit of ω is worth, added to the latency that is minimised.
        pins: Layers that are placed on a given device, or have a given precision.
        prefill: Sequences of a prefill micro-batch; None to let the planner choose.
        decode: Sequences of a decode micro-batch; None to let the planner choose.
    """

    architecture: Architecture
    model: ModelReference
    cluster: Cluster
    measurements: Measurements
    sensitivity: Sensitivity
    workload: Workload
    activations: Activations = "float32"
    group_size: Literal[32, 64, 128] = 128
    bits: tuple[Bits, ...] = USUAL_BITS
    layer_bits: tuple[tuple[Bits, ...], ...] = ()
    rounds_unquantized: bool = False
    head_bits: tuple[HeadBits, ...] = (16,)
    kv_bits: tuple[KvBits, ...] = (16,)
    wire_bits: tuple[WireBits, ...] = (16,)
    tensor: tuple[int, ...] = (1,)
    omega_budget: float | None = None
    theta: float = 0.0
    pins: tuple[Pin, ...] = ()
    prefill: int | None = None
    decode: int | None = None

    def __post_init__(self) -> None:
        for name in ("bits", "head_bits", "kv_bits", "wire_bits"):
            if not getattr(self, name):
                msg = f"{name} is empty: expected at least one precision"
                raise ValueError(msg)
        check_activations(self.activations, (*self.bits, *self.head_bits))
        for layer, own in enumerate(self.layer_bits):
            if not set(own) & set(self.bits):
                msg = f"layer {layer} of the checkpoint can be served at {_either(own)} bits: expected one of them among {_either(self.bits)}, the precisions that a layer may have"
                raise ValueError(msg)
        if not self.tensor or min(self.tensor) < 1:
            msg = f"tensor is {self.tensor}: expected at least one width, from 1 up"
            raise ValueError(msg)
        check_pins(
            self.pins,
            num_layers=self.architecture.num_layers,
            cluster=self.cluster,
            bits=self.bits,
        )
        # Whatever is not a number is in no range.
        if not 0 <= self.theta <= _MAX_THETA:
            msg = f"theta is {self.theta}: expected a finite number of seconds from 0 to {_MAX_THETA:g}"
            raise ValueError(msg)
        if self.omega_budget is not None and not 0 <= self.omega_budget <= MAX_OMEGA:
            msg = f"omega_budget is {self.omega_budget}: expected a finite number from 0 to {MAX_OMEGA:g}"
            raise ValueError(msg)
        for name in ("prefill", "decode"):
            rows = getattr(self, name)
            if rows is not None and not 1 <= rows <= self.workload.batch:
                msg = f"{name} is pinned to {rows} rows: expected 1 to {self.workload.batch}, the batch"
                raise ValueError(msg)


def _either(bits: tuple[Bits, ...]) -> str:
    return " or ".join(map(str, bits))
