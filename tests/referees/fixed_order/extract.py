"""Reads a placement off a solved model."""

from __future__ import annotations

from itertools import pairwise

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.node_mip.scaling import Model
from tests.referees.fixed_order.variables import bits_of


def read_placement(model: Model, instance: Instance) -> Candidate:
    """Rounds the counts to whole layers and lists them device by device.

    Within a stage the precisions stand in the order of axis B; which layer gets which is
    `with_min_omega`'s to say, since equal plans may leave `assign` fractional.
    """
    devices, columns = [], []
    for j in range(instance.num_devices):
        held = [
            b
            for b in bits_of(instance, j)
            for _ in range(round(model.count[j, b].value))
        ]
        if held:
            devices.append(j)
            columns.append(tuple(held))
    wires = tuple(
        max(
            range(len(instance.wire_bits)),
            key=lambda o, j=j, k=k: model.hop[j, k, o].value or 0.0,
        )
        for j, k in pairwise(devices)
    )
    return Candidate(devices=tuple(devices), columns=tuple(columns), wires=wires)
