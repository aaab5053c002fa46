"""Reads a candidate off a solved model."""

from __future__ import annotations

from itertools import pairwise

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.node_mip.highs import Model
from tests.referees.fixed_order.variables import bits_of


def read_candidate(model: Model, instance: Instance) -> Candidate:
    """Rounds the counts to whole layers and lists them device by device.

    Within a stage the precisions are in the order of axis B; `with_min_omega` decides
    which layer gets which, since equal plans may leave `assign` fractional.
    """
    devices, bits_indices = [], []
    for j in range(instance.num_devices):
        held = [
            b
            for b in bits_of(instance, j)
            for _ in range(round(model.count[j, b].value))
        ]
        if held:
            devices.append(j)
            bits_indices.append(tuple(held))
    wire_indices = tuple(
        max(
            range(len(instance.wire_bits)),
            key=lambda o, j=j, k=k: model.hop[j, k, o].value or 0.0,
        )
        for j, k in pairwise(devices)
    )
    return Candidate(
        devices=tuple(devices),
        bits_indices=tuple(bits_indices),
        wire_indices=wire_indices,
    )
