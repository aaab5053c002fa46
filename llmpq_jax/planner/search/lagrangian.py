"""Prices that turn the schedule into a sum over stages, and so into a lower bound.

The objective is T_p + T_d + θ·Σω with maxima inside: the slowest stages A and D, the
round R = max(m_d·D, ΣD), machines that devices share, s_p and s_d their serial fractions,
and a budget on Σω. For any
multipliers u, v ≥ 0 of pools of N_q devices, ρ, σ ≥ 0 of shared machines with sums of at most 1, a share
λ in [0, 1] and a price η ≥ 0 of ω,

    T_p ≥ (1 − Σρ·s_p)(ΣP + (m_p − 1)·A) + Σ_h ρ_h·s_p·m_p·Σ_{j in h} P_j
    T_d ≥ (1 − Σσ·s_d)(ΣD + (m_d − 1)·D + (n − 2)·R) + Σ_h σ_h·s_d·(n − 1)·m_d·Σ_{j in h} D_j
    R   ≥ λ·ΣD + (1 − λ)·m_d·D
    a·A ≥ (a − Σ_q N_q·u_q)·A_least + Σ_q u_q·Σ_{j of q} w_j·P_j  where Σ_q N_q·u_q ≤ a
    0   ≥ η·(Σω − Ω)                                              where the budget holds

since stages on a pool take w_j devices each and N_q in all; and likewise for D: a weighted sum of stages' seconds and ω, and a constant. Its least
value over all pipelines is a lower bound whatever the multipliers are; good ones are the
duals of a linear programme. Axes: T types, Q pools, H hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.search.stage_table import StageTable

# Plans may exceed their budget by a sum's rounding, see `costmodel.quality`.
BUDGET_SLACK = 2e-9


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Multipliers:
    """Any numbers; `lagrangian_weights` brings them within their limits.

    Attributes:
        slowest_prefill: [Q] u.
        slowest_decode: [Q] v, of decode seconds of all steps.
        prefill_hosts: [H] ρ.
        decode_hosts: [H] σ.
        empty_round: λ.
        omega: η.
    """

    slowest_prefill: Floats
    slowest_decode: Floats
    prefill_hosts: Floats
    decode_hosts: Floats
    empty_round: float
    omega: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LagrangianWeights:
    """What a stage's seconds and loss weigh, and the rest of the bound.

    Attributes:
        prefill: [T] of a second of prefill.
        decode: [T] of a second of a decode step.
        hop_prefill: Of a hop's second of prefill.
        hop_decode: Of a hop's second of a decode step.
        omega: Of a unit of ω.
        min_prefill_s: Of a second of A_least.
        min_decode_s: Of a second of D_least.
        constant: Of everything else.
    """

    prefill: Floats
    decode: Floats
    hop_prefill: float
    hop_decode: float
    omega: float
    min_prefill_s: float
    min_decode_s: float
    constant: float


def lagrangian_weights(
    tables: StageTable, multipliers: Multipliers
) -> LagrangianWeights:
    """Makes valid prices of multipliers, whatever these are."""
    i, types, sizes = tables.instance, tables.types, tables.types.sizes
    serial_p = np.array([host.prefill_serial for host in i.hosts])
    serial_d = np.array([host.decode_serial for host in i.hosts])
    rho = _within(multipliers.prefill_hosts, 1.0)[0] * serial_p
    sigma = _within(multipliers.decode_hosts, 1.0)[0] * serial_d
    prefill_share, decode_share = 1.0 - float(rho.sum()), 1.0 - float(sigma.sum())
    share = float(np.clip(multipliers.empty_round, 0.0, 1.0))
    on_slowest = (i.num_prefill - 1) * prefill_share
    slow_p, min_p = _within(multipliers.slowest_prefill, on_slowest, weights=sizes)
    rounds = max(i.new_tokens - 2, 0)
    has_decode = i.new_tokens > 1
    once = decode_share * (1 + rounds * share) if has_decode else 0.0
    busy = (i.num_decode - 1) + rounds * (1 - share) * i.num_decode
    on_slowest = decode_share * busy if has_decode else 0.0
    slow_d, min_d = _within(multipliers.slowest_decode, on_slowest, weights=sizes)
    prefill = prefill_share + types.widths * slow_p[types.device_group]
    decode = once + types.widths * slow_d[types.device_group]
    for h, members in enumerate(types.hosts):
        np.add.at(prefill, list(members), rho[h] * i.num_prefill)
        steps = i.num_decode * (i.new_tokens - 1)
        np.add.at(decode, list(members), sigma[h] * steps)
    eta = max(0.0, multipliers.omega) if i.omega_budget is not None else 0.0
    constant = (i.theta + eta) * i.fixed_omega
    if i.omega_budget is not None:
        constant -= eta * i.omega_budget * (1 + BUDGET_SLACK)
    return LagrangianWeights(
        prefill=prefill,
        decode=decode,
        hop_prefill=prefill_share,
        hop_decode=once,
        omega=i.theta + eta,
        min_prefill_s=min_p,
        min_decode_s=min_d,
        constant=constant,
    )


def omega_only(tables: StageTable) -> LagrangianWeights:
    """Prices under which a pipeline's price is its Σω."""
    zeros = np.zeros(tables.types.num_types)
    return LagrangianWeights(
        prefill=zeros,
        decode=zeros,
        hop_prefill=0.0,
        hop_decode=0.0,
        omega=1.0,
        min_prefill_s=0.0,
        min_decode_s=0.0,
        constant=tables.instance.fixed_omega,
    )


def _within(
    values: Floats, most: float, *, weights: npt.NDArray[Any] | None = None
) -> tuple[Floats, float]:
    """Returns values from 0 up whose weighted sum is at most `most`, and what is left."""
    kept = np.maximum(np.asarray(values, dtype=float), 0.0)
    total = float((kept * (1.0 if weights is None else weights)).sum())
    if total > most:
        kept = kept * (most / total)
        total = most
    return kept, most - total
