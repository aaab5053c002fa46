"""A lower bound by a small linear programme: counts alone, without cuts or order.

It knows memory, quality and both schedules, and forgets which layer lies where, whole
numbers and hops: layers of each type of device at each precision, within its pool's devices, shares of each layer's
precisions, one embedding, one head. What it forgets only adds seconds. Its duals are
the multipliers to begin with, see `weights`.
"""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.search.bounds import objective_bound
from llmpq_jax.planner.search.lagrangian import Multipliers
from llmpq_jax.planner.search.restricted_master import Column, RestrictedMaster
from llmpq_jax.planner.search.shortest_path import NodeBounds
from llmpq_jax.planner.search.stage_table import StageTable

# The programme is solved to a tolerance of 1e-7.
_SAFETY = 1e-6


def relax(tables: StageTable) -> tuple[float, Multipliers]:
    """Returns a number no plan's objective is below, and the multipliers behind it.

    The number is infinite where no plan exists.
    """
    closed = objective_bound(tables.instance)
    if not np.isfinite(closed):
        return closed, _neutral(tables)
    master = RestrictedMaster(tables, NodeBounds())
    _add_counts(master, tables)
    solved = master.solve()
    if solved is None:
        # Infeasible up to a tolerance, which is no proof: the searcher finds out.
        return closed, _neutral(tables)
    value, multipliers = solved
    return max(closed, value * (1.0 - _SAFETY)), multipliers


def _neutral(tables: StageTable) -> Multipliers:
    zeros = np.zeros(tables.types.num_groups)
    hosts = np.zeros(len(tables.instance.hosts))
    return Multipliers(
        slowest_prefill=zeros,
        slowest_decode=zeros,
        prefill_hosts=hosts,
        decode_hosts=hosts,
        empty_round=0.5,
        omega=0.0,
    )


def _add_counts(master: RestrictedMaster, tables: StageTable) -> None:
    i, types = tables.instance, tables.types
    devices, inf = types.first, float("inf")
    workspace = np.where(i.supported, i.workspace_bytes, i.allowed_bytes[:, None])
    room = np.maximum(0, i.allowed_bytes - i.buffer_bytes - workspace.min(axis=1))
    # Of a pool's devices, what lies on a mesh takes its share of each of the mesh's.
    memory = [master.add_row(-inf, float(size)) for size in types.sizes]
    interchangeable_groups, num_alike = np.unique(
        i.allowed_omega, axis=0, return_counts=True
    )
    whole = [master.add_row(float(num), float(num)) for num in num_alike]
    counted = [master.add_row(0.0, 0.0) for _ in i.bits]
    first, last = master.add_row(1.0, 1.0), master.add_row(1.0, 1.0)
    unit_of = np.eye(types.num_types)
    zeros = np.zeros(types.num_types)
    for t, j in enumerate(devices):
        if room[j] == 0:
            continue
        row_of_pool, share = (
            memory[types.device_group[t]],
            types.widths[t] / float(room[j]),
        )
        for b in np.flatnonzero(i.supported[j]):
            size = float(i.layer_bytes[j, b] + i.kv_bytes[j]) * share
            master.add_column(
                Column(
                    prefill_s=unit_of[t] * i.layer_prefill_s[j, b],
                    decode_s=unit_of[t] * i.layer_decode_s[j, b],
                    entries=((counted[b], 1.0), (row_of_pool, size)),
                )
            )
        ends = (
            (first, i.may_be_first, i.embedding_prefill_s, i.embedding_decode_s),
            (last, i.may_be_last, i.head_prefill_s, i.head_decode_s),
        )
        sizes = (i.embedding_bytes[j] * share, i.head_bytes[j] * share)
        for (row, may, prefill_s, decode_s), size in zip(ends, sizes, strict=True):
            if may[j]:
                master.add_column(
                    Column(
                        prefill_s=unit_of[t] * prefill_s[j],
                        decode_s=unit_of[t] * decode_s[j],
                        entries=((row, 1.0), (row_of_pool, float(size))),
                    )
                )
    for row, omega in zip(whole, interchangeable_groups, strict=True):
        for b, loss in enumerate(omega):
            if not np.isfinite(loss):
                continue
            master.add_column(
                Column(
                    prefill_s=zeros,
                    decode_s=zeros,
                    omega=float(loss),
                    entries=((row, 1.0), (counted[b], -1.0)),
                )
            )
