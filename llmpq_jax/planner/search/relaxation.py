"""A lower bound by a small linear programme: counts alone, without cuts or order.

It knows memory, quality and both schedules, and forgets which layer lies where, whole
numbers and hops: layers of each type of device at each precision, within its pool's devices, shares of each layer's
precisions, one embedding, one head. What it forgets only adds seconds. Its duals are
the multipliers to begin with, see `prices`.
"""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.search.bounds import objective_bound
from llmpq_jax.planner.search.lagrangian import Multipliers
from llmpq_jax.planner.search.restricted_master import Column, Programme
from llmpq_jax.planner.search.shortest_path import Box
from llmpq_jax.planner.search.stage_table import TypeTables

# The programme is solved to a tolerance of 1e-7.
_SAFETY = 1e-6


def relax(tables: TypeTables) -> tuple[float, Multipliers]:
    """Returns a number no plan's objective is below, and the multipliers behind it.

    The number is infinite where no plan exists.
    """
    closed = objective_bound(tables.instance)
    if not np.isfinite(closed):
        return closed, _neutral(tables)
    programme = Programme(tables, Box())
    _add_counts(programme, tables)
    solved = programme.solve()
    if solved is None:
        # Infeasible up to a tolerance, which is no proof: the searcher finds out.
        return closed, _neutral(tables)
    value, multipliers = solved
    return max(closed, value * (1.0 - _SAFETY)), multipliers


def _neutral(tables: TypeTables) -> Multipliers:
    zeros = np.zeros(tables.types.num_pools)
    hosts = np.zeros(len(tables.instance.hosts))
    return Multipliers(
        slowest_prefill=zeros,
        slowest_decode=zeros,
        prefill_hosts=hosts,
        decode_hosts=hosts,
        empty_round=0.5,
        omega=0.0,
    )


def _add_counts(programme: Programme, tables: TypeTables) -> None:
    i, types = tables.instance, tables.types
    devices, inf = types.first, float("inf")
    workspace = np.where(i.supported, i.workspace_bytes, i.allowed_bytes[:, None])
    room = np.maximum(0, i.allowed_bytes - i.buffer_bytes - workspace.min(axis=1))
    # Of a pool's devices, what lies on a mesh takes its share of each of the mesh's.
    memory = [programme.add_row(-inf, float(size)) for size in types.sizes]
    alike, num_alike = np.unique(i.allowed_omega, axis=0, return_counts=True)
    whole = [programme.add_row(float(num), float(num)) for num in num_alike]
    counted = [programme.add_row(0.0, 0.0) for _ in i.bits]
    first, last = programme.add_row(1.0, 1.0), programme.add_row(1.0, 1.0)
    unit_of = np.eye(types.num_types)
    zeros = np.zeros(types.num_types)
    for t, j in enumerate(devices):
        if room[j] == 0:
            continue
        row_of_pool, share = memory[types.pool[t]], types.widths[t] / float(room[j])
        for b in np.flatnonzero(i.supported[j]):
            size = float(i.layer_bytes[j, b] + i.kv_bytes[j]) * share
            programme.add_column(
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
                programme.add_column(
                    Column(
                        prefill_s=unit_of[t] * prefill_s[j],
                        decode_s=unit_of[t] * decode_s[j],
                        entries=((row, 1.0), (row_of_pool, float(size))),
                    )
                )
    for row, omega in zip(whole, alike, strict=True):
        for b, loss in enumerate(omega):
            if not np.isfinite(loss):
                continue
            programme.add_column(
                Column(
                    prefill_s=zeros,
                    decode_s=zeros,
                    omega=float(loss),
                    entries=((row, 1.0), (counted[b], -1.0)),
                )
            )
