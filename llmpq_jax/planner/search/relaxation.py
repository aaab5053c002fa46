"""A lower bound by a small linear program: layer counts alone, without cuts or order.

It knows memory, quality and both schedules, and forgets which layer is where, whole
numbers and hops. It chooses layers of each type of device at each precision, within its
group's devices; shares of each layer's precisions; one embedding and one head. What it
forgets could only add seconds. Its duals are the multipliers to start from, see
`lagrangian`.
"""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.search.bounds import objective_bound
from llmpq_jax.planner.search.lagrangian import Multipliers
from llmpq_jax.planner.search.restricted_master import Column, RestrictedMaster
from llmpq_jax.planner.search.shortest_path import NodeBounds
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.schema.measurements import PHASES

# The program is solved to a tolerance of 1e-7.
_SAFETY = 1e-6


def relax(table: StageTable) -> tuple[float, Multipliers]:
    """Returns a lower bound on every plan's objective, and the multipliers behind it.

    The bound is infinite if no plan exists.
    """
    closed = objective_bound(table.instance)
    if not np.isfinite(closed):
        return closed, _neutral(table)
    master = RestrictedMaster(table, NodeBounds())
    _add_counts(master, table)
    solved = master.solve()
    if solved is None:
        # Infeasible up to a tolerance, which is no proof: the search finds out.
        return closed, _neutral(table)
    value, multipliers = solved
    return max(closed, value * (1.0 - _SAFETY)), multipliers


def _neutral(table: StageTable) -> Multipliers:
    return Multipliers(
        slowest=np.zeros((len(PHASES), table.types.num_groups)),
        hosts=np.zeros((len(PHASES), len(table.instance.hosts))),
        empty_round=0.5,
        omega=0.0,
    )


def _add_counts(master: RestrictedMaster, table: StageTable) -> None:
    i, types, d = table.instance, table.types, table.instance.devices
    inf = float("inf")
    allowed = d.allowed_bytes.copy()
    for own in types.members:
        # The same stages fit all devices of a type, so that the most room bounds them.
        allowed[list(own)] = allowed[list(own)].max()
    workspace = np.where(d.supported, d.workspace_bytes, allowed[:, None])
    room = np.maximum(0, allowed - i.buffer_bytes - workspace.min(axis=1))
    # What is on a mesh takes its share of each of the mesh's devices in the group.
    memory = [master.add_row(-inf, float(size)) for size in types.group_sizes]
    layer_kinds, num_equal = np.unique(i.allowed_omega, axis=0, return_counts=True)
    whole = [master.add_row(float(num), float(num)) for num in num_equal]
    counted = [master.add_row(0.0, 0.0) for _ in i.bits]
    first, last = master.add_row(1.0, 1.0), master.add_row(1.0, 1.0)
    one_hot = np.eye(types.num_types)
    for t, j in enumerate(types.first):
        if room[j] == 0:
            continue
        memory_row = memory[types.group_of[t]]
        share = types.widths[t] / float(room[j])
        for b in np.flatnonzero(d.supported[j]):
            size = float(d.layer_bytes[j, b] + d.kv_bytes[j]) * share
            master.add_column(
                Column(
                    seconds=d.layer_s[:, j, b, None] * one_hot[t],
                    entries=((counted[b], 1.0), (memory_row, size)),
                )
            )
        for row, may_hold, seconds, num_bytes in (
            (first, d.may_be_first, d.embedding_s, d.embedding_bytes),
            (last, d.may_be_last, d.head_s, d.head_bytes),
        ):
            if may_hold[j]:
                size = float(num_bytes[j] * share)
                master.add_column(
                    Column(
                        seconds=seconds[:, j, None] * one_hot[t],
                        entries=((row, 1.0), (memory_row, size)),
                    )
                )
    for row, losses in zip(whole, layer_kinds, strict=True):
        for b in np.flatnonzero(np.isfinite(losses)):
            master.add_column(
                Column(
                    seconds=np.zeros((len(PHASES), types.num_types)),
                    omega=float(losses[b]),
                    entries=((row, 1.0), (counted[b], -1.0)),
                )
            )
