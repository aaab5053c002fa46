"""Lagrangian weights that turn the schedule into a sum over stages, and so into a bound.

The objective is T_p + T_d + θ·Σω with maxima inside: the slowest stages A and D, the
round R = max(m_d·D, ΣD), machines that devices share, s_p and s_d their serial fractions,
and a budget on Σω. For any multipliers u, v ≥ 0 of groups of N_q devices, ρ, σ ≥ 0 of
shared machines with sums of at most 1, a share λ in [0, 1] and a multiplier η ≥ 0 of ω,

    T_p ≥ (1 − Σρ·s_p)(ΣP + (m_p − 1)·A) + Σ_h ρ_h·s_p·m_p·Σ_{j in h} P_j
    T_d ≥ (1 − Σσ·s_d)(ΣD + (m_d − 1)·D + (n − 2)·R) + Σ_h σ_h·s_d·(n − 1)·m_d·Σ_{j in h} D_j
    R   ≥ λ·ΣD + (1 − λ)·m_d·D
    a·A ≥ (a − Σ_q N_q·u_q)·A_min + Σ_q u_q·Σ_{j of q} w_j·P_j    where Σ_q N_q·u_q ≤ a
    0   ≥ η·(Σω − Ω)                                              where the budget holds

since stages on a group take w_j devices each and N_q in all, and the same for D: a
weighted sum of stages' seconds and ω, and a constant. Its minimum over all pipelines is a
lower bound for any multipliers; good ones are the duals of a linear program. Prefill is a
decode of one round, n − 1 = 1. Axes: T types, G groups, H hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.schema.measurements import PHASES

# Plans may exceed their budget by a sum's rounding, see `costmodel.quality`.
BUDGET_SLACK = 2e-9


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Multipliers:
    """Any numbers; `lagrangian_weights` brings them within their limits.

    Attributes:
        slowest: Multipliers u and v of the slowest stage, the latter for decode seconds
            of all steps, [P, G].
        hosts: Multipliers ρ and σ of shared machines, [P, H].
        empty_round: Share λ of a round without waiting.
        omega: Multiplier η of the budget.
    """

    slowest: Float[np.ndarray, "P G"]
    hosts: Float[np.ndarray, "P H"]
    empty_round: float
    omega: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LagrangianWeights:
    """Weights of a stage's seconds and loss, and the rest of the bound.

    Attributes:
        stage: Weight of a stage's second, [P, T].
        hop: Weight of a hop's second, [P].
        omega: Weight of a unit of ω.
        min_slowest: Weight of a second of the lower limit on the slowest stage, A_min or
            D_min, [P].
        constant: Everything else in the bound.
    """

    stage: Float[np.ndarray, "P T"]
    hop: Float[np.ndarray, " P"]
    omega: float
    min_slowest: Float[np.ndarray, " P"]
    constant: float


def lagrangian_weights(
    table: StageTable, multipliers: Multipliers
) -> LagrangianWeights:
    """Makes valid weights of any multipliers."""
    i, types = table.instance, table.types
    share = float(np.clip(multipliers.empty_round, 0.0, 1.0))
    stage = np.zeros((len(PHASES), types.num_types))
    hop, min_slowest = np.zeros((2, len(PHASES)))
    for p, phase in enumerate(PHASES):
        m, rounds = i.num_micro_batches[p], i.num_rounds[p]
        serial = np.array([host.serial_fraction(phase) for host in i.hosts])
        shared = _within(multipliers.hosts[p], 1.0)[0] * serial
        on_slowest = 0.0
        if p in i.phases:
            alone = 1.0 - float(shared.sum())
            hop[p] = alone * (1 + (rounds - 1) * share)
            on_slowest = alone * ((m - 1) + (rounds - 1) * (1 - share) * m)
        slowest, min_slowest[p] = _within(
            multipliers.slowest[p], on_slowest, weights=types.group_sizes
        )
        stage[p] = hop[p] + types.widths * slowest[types.group_of]
        for h, members in enumerate(types.hosts):
            np.add.at(stage[p], list(members), shared[h] * (m * rounds))
    eta = max(0.0, multipliers.omega) if i.omega_budget is not None else 0.0
    constant = (i.theta + eta) * i.fixed_omega
    if i.omega_budget is not None:
        constant -= eta * i.omega_budget * (1 + BUDGET_SLACK)
    return LagrangianWeights(
        stage=stage,
        hop=hop,
        omega=i.theta + eta,
        min_slowest=min_slowest,
        constant=constant,
    )


def omega_only(table: StageTable) -> LagrangianWeights:
    """Returns the weights under which a pipeline's value is its Σω."""
    return LagrangianWeights(
        stage=np.zeros((len(PHASES), table.types.num_types)),
        hop=np.zeros(len(PHASES)),
        omega=1.0,
        min_slowest=np.zeros(len(PHASES)),
        constant=table.instance.fixed_omega,
    )


def _within(
    values: Floats, maximum: float, *, weights: npt.NDArray[Any] | None = None
) -> tuple[Floats, float]:
    """Returns values from 0 up whose weighted sum is at most a maximum, and the rest."""
    kept = np.maximum(np.asarray(values, dtype=float), 0.0)
    total = float((kept * (1.0 if weights is None else weights)).sum())
    if total > maximum:
        kept = kept * (maximum / total)
        total = maximum
    return kept, maximum - total
