"""What a plan is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.planner.constraints import Pin, check_pins
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.precision import (
    ALL_BITS,
    Activations,
    Bits,
    HeadBits,
    KvBits,
    WireBits,
)
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import ModelReference
from llmpq_jax.schema.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """A planning problem, as records.

    Attributes:
        architecture: Of the model.
        model: What the strategy will name.
        cluster: Devices in the order in which a pipeline may use them.
        measurements: Of this model's layers on these kinds of device.
        sensitivity: Of this model.
        workload: What is served.
        activations: Type of hidden states and of the cache.
        group_size: Of int4 groups, at most.
        bits: Precisions a layer may have.
        head_bits: Precisions the head may have; of several the best is taken.
        kv_bits: Precisions the cache may have, of which the measured ones are tried; 16
            keeps it in the activations' type.
        wire_bits: Precisions that hidden states may have on each hop.
        tensor: Devices that a stage may be spread over; widths above 1 are tried where
            they were measured, divide the model's heads, and fit a node.
        omega_budget: Σω may not exceed it. Absent with `theta` 0, it is that of a model
            wholly at 8 bits, or as little more as the memory forces.
        theta: Seconds a unit of ω is worth; added to the latency that is minimised.
        pins: Layers that lie on a device, or have a precision.
        prefill: Pins the rows of a prefill micro-batch.
        decode: Pins the rows of a decode micro-batch.
    """

    architecture: Architecture
    model: ModelReference
    cluster: Cluster
    measurements: Measurements
    sensitivity: Sensitivity
    workload: Workload
    activations: Activations = "float32"
    group_size: Literal[32, 64, 128] = 128
    bits: tuple[Bits, ...] = ALL_BITS
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
        if not self.tensor or min(self.tensor) < 1:
            msg = f"tensor is {self.tensor}: expected at least one width, from 1 up"
            raise ValueError(msg)
        check_pins(
            self.pins,
            num_layers=self.architecture.num_layers,
            cluster=self.cluster,
            bits=self.bits,
        )
        if not 0 <= self.theta < float("inf"):
            msg = (
                f"theta is {self.theta}: expected a finite number of seconds from 0 up"
            )
            raise ValueError(msg)
        if self.omega_budget is not None and not 0 <= self.omega_budget < float("inf"):
            msg = f"omega_budget is {self.omega_budget}: expected a finite number from 0 up"
            raise ValueError(msg)
        for name in ("prefill", "decode"):
            rows = getattr(self, name)
            if rows is not None and not 1 <= rows <= self.workload.batch:
                msg = f"{name} is pinned to {rows} rows: expected 1 to {self.workload.batch}, the batch"
                raise ValueError(msg)
