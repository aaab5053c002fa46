"""A lower bound by a small linear programme: counts alone, without cuts.

It knows memory, quality and both schedules, and forgets which layer lies where, whole
numbers and hops: counts c of layers per device and precision, shares y of each layer's
precisions, one embedding, one head. What it forgets only adds seconds.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_array

from llmpq_jax.cost.tables import Floats
from llmpq_jax.solver.bounds import latency_bound_s, objective_bound
from llmpq_jax.solver.instance import Instance

# The programme is solved to a tolerance of 1e-7.
_SAFETY = 1e-6


def relaxed_bound(instance: Instance) -> float:
    """Returns a number no plan's objective is below; infinite where none exists."""
    closed = objective_bound(instance)
    if not np.isfinite(closed):
        return closed
    programme = _Programme(instance, unit_s=latency_bound_s(instance) or 1.0)
    programme.place()
    programme.hold()
    programme.schedule_prefill()
    if instance.new_tokens > 1:
        programme.schedule_decode()
    status, value = programme.solve()
    if status == 2:
        return float("inf")
    return max(closed, value * (1.0 - _SAFETY)) if status == 0 else closed


class _Programme:
    """Rows and bounds of the linear programme; seconds in units of `unit_s`."""

    def __init__(self, instance: Instance, *, unit_s: float) -> None:
        self._instance = instance
        self._unit_s = unit_s
        num_layers, num_bits = instance.omega.shape
        sizes = {
            "count": instance.supported.size,
            "share": num_layers * num_bits,
            "first": instance.num_devices,
            "last": instance.num_devices,
            "slowest_p": 1,
            "time_p": 1,
            "slowest_d": 1,
            "round": 1,
            "time_d": 1,
        }
        ends = np.cumsum([0, *sizes.values()])
        self._at = {
            name: np.arange(start, end)
            for name, start, end in zip(sizes, ends, ends[1:], strict=False)
        }
        self._width = int(ends[-1])
        self._most = np.full(self._width, np.inf)
        self._most[self._at["count"]] = np.where(
            instance.supported, instance.num_layers, 0
        ).ravel()
        self._most[self._at["first"]] = instance.may_be_first
        self._most[self._at["last"]] = instance.may_be_last
        self._below: list[tuple[Floats, float]] = []
        self._equal: list[tuple[Floats, float]] = []

    def place(self) -> None:
        """Every layer has its precisions; they are counted; the ends have a place."""
        num_layers, num_bits = self._instance.omega.shape
        share = self._at["share"].reshape(num_layers, num_bits)
        count = self._at["count"].reshape(-1, num_bits)
        for layer in range(num_layers):
            self._equal.append((self._row((share[layer], 1.0)), 1.0))
        for b in range(num_bits):
            row = self._row((count[:, b], 1.0), (share[:, b], -1.0))
            self._equal.append((row, 0.0))
        for end in ("first", "last"):
            self._equal.append((self._row((self._at[end], 1.0)), 1.0))

    def hold(self) -> None:
        """Memory of every device, and quality."""
        i = self._instance
        unit = float(i.allowed_bytes.max())
        workspace = np.where(i.supported, i.workspace_bytes, i.allowed_bytes[:, None])
        room = np.maximum(0, i.allowed_bytes - i.buffer_bytes - workspace.min(axis=1))
        for j in range(i.num_devices):
            row = self._row(
                (self._counts(j), (i.layer_bytes + i.kv_bytes) / unit),
                (self._at["first"][j], i.embedding_bytes / unit),
                (self._at["last"][j], i.head_bytes / unit),
            )
            self._below.append((row, room[j] / unit))
        if i.omega_budget is not None:
            unit = float(i.omega.max()) or 1.0
            row = self._row((self._at["share"], i.omega.ravel() / unit))
            # A plan may exceed its budget by a sum's rounding, see `cost.quality`.
            budget = i.omega_budget * (1.0 + 2e-9) - i.head_omega
            self._below.append((row, budget / unit))

    def schedule_prefill(self) -> None:
        """Prefill takes ΣP + (m_p − 1)·max P, or a shared machine's work."""
        i = self._instance
        stages = [
            self._stage(j, i.layer_prefill_s, i.embedding_prefill_s, i.head_prefill_s)
            for j in range(i.num_devices)
        ]
        slowest, time = self._unit("slowest_p"), self._unit("time_p")
        self._below += [(stage - slowest, 0.0) for stage in stages]
        once = np.sum(stages, axis=0)
        self._below.append((once + (i.num_prefill - 1) * slowest - time, 0.0))
        for host in i.hosts:
            work = np.sum([stages[j] for j in host.members], axis=0)
            row = i.num_prefill / host.capacity * work - time
            self._below.append((row, 0.0))

    def schedule_decode(self) -> None:
        """Decode takes ΣD + (m_d − 1)·max D + (n − 2)·round, or a machine's work."""
        i = self._instance
        steps = i.new_tokens - 1
        stages = [
            steps
            * self._stage(j, i.layer_decode_s, i.embedding_decode_s, i.head_decode_s)
            for j in range(i.num_devices)
        ]
        slowest, time = self._unit("slowest_d"), self._unit("time_d")
        a_round = self._unit("round")
        self._below += [(stage - slowest, 0.0) for stage in stages]
        once = np.sum(stages, axis=0)
        self._below.append((i.num_decode * slowest - a_round, 0.0))
        self._below.append((once - a_round, 0.0))
        total = once + (i.num_decode - 1) * slowest + (steps - 1) * a_round
        self._below.append((total / steps - time, 0.0))
        for host in i.hosts:
            work = np.sum([stages[j] for j in host.members], axis=0)
            self._below.append((i.num_decode / host.capacity * work - time, 0.0))

    def solve(self) -> tuple[int, float]:
        """Returns scipy's status and the objective."""
        i = self._instance
        price = i.theta / self._unit_s
        costs = self._unit("time_p") + self._unit("time_d")
        costs += self._row((self._at["share"], price * i.omega.ravel()))
        rows, limits = zip(*self._below, strict=True)
        equal_rows, values = zip(*self._equal, strict=True)
        solved = linprog(
            costs,
            A_ub=lil_array(np.array(rows)).tocsc(),
            b_ub=limits,
            A_eq=lil_array(np.array(equal_rows)).tocsc(),
            b_eq=values,
            bounds=np.stack([np.zeros(self._width), self._most], axis=1),
            method="highs",
        )
        value = solved.fun if solved.fun is not None else np.nan
        return solved.status, value * self._unit_s + i.theta * i.head_omega

    def _stage(
        self, j: int, layer_s: Floats, first_s: Floats, last_s: Floats
    ) -> Floats:
        # Unsupported entries are bounded to 0, and infinity must not be written.
        def finite(seconds: Floats) -> Floats:
            return np.where(np.isfinite(seconds), seconds, 0.0) / self._unit_s

        return self._row(
            (self._counts(j), finite(layer_s[j])),
            (self._at["first"][j], finite(first_s[j])),
            (self._at["last"][j], finite(last_s[j])),
        )

    def _counts(self, j: int) -> np.ndarray:
        return self._at["count"].reshape(self._instance.supported.shape)[j]

    def _unit(self, name: str) -> Floats:
        return self._row((self._at[name], 1.0))

    def _row(self, *entries: tuple[np.ndarray, float | Floats]) -> Floats:
        row = np.zeros(self._width)
        for place, value in entries:
            row[place] = value
        return row
