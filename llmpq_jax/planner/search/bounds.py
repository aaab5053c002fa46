"""Lower bounds in closed form, which leave most micro-batch pairs unsolved, and units.

HiGHS compares coefficients and residuals with absolute tolerances, so seconds and losses
in their own units would mix 1e3 with 1e-6. In units of a bound all numbers are near 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.schema.measurements import PHASES

# A plan's value is the same sum taken in another order, and may round down.
_ROUNDING = 1e-12


def objective_bound(instance: Instance) -> float:
    """Returns a lower bound on every plan's objective; infinite if none exists."""
    if not _is_possible(instance):
        return float("inf")
    value = latency_bound_s(instance) + instance.theta * omega_bound(instance)
    return value * (1 - _ROUNDING)


def omega_bound(instance: Instance) -> float:
    """Returns a lower bound on every plan's Σω; infinite if none exists."""
    if not _is_possible(instance):
        return float("inf")
    value = instance.fixed_omega + float(instance.allowed_omega.min(axis=1).sum())
    return value * (1 - _ROUNDING)


def latency_bound_s(instance: Instance) -> float:
    """Returns a lower bound on every plan's latency in seconds; infinite if none exists.

    The schedule grows with ΣP, max P, ΣD and max D, so bounds of these four bound it. A
    sum is least with every layer where it is fastest; a maximum, with the layers spread
    in proportion to the devices' speeds, each at its fastest precision. Memory, quality
    and hops are ignored, which can only lower the bound.
    """
    if not _is_possible(instance):
        return float("inf")
    return sum(phase_bounds_s(instance))


def phase_bounds_s(instance: Instance) -> tuple[float, float]:
    """Returns lower bounds on the seconds of each phase, [P]; see `latency_bound_s`."""
    d, bounds = instance.devices, [0.0, 0.0]
    for p in instance.phases:
        # Every layer where it is fastest, and what the one stage that there is adds.
        once_s = d.embedding_s[p].min() + d.head_s[p].min()
        once_s += d.whole_dispatch_s[p].min()
        once_s = float(instance.num_layers * d.layer_s[p].min() + once_s)
        slowest_s = _slowest_s(instance, p)
        m, rounds = instance.num_micro_batches[p], instance.num_rounds[p]
        alone_s = once_s + (m - 1) * slowest_s
        alone_s += (rounds - 1) * max(m * slowest_s, once_s)
        bounds[p] = _shared_bound(instance, p, alone_s, rounds * m * d.layer_s[p])
    return bounds[PREFILL], bounds[DECODE]


def slowest_bounds_s(instance: Instance) -> tuple[float, float]:
    """Returns lower bounds on the seconds of each phase's slowest stage, [P]."""
    prefill_s, decode_s = (
        _slowest_s(instance, p) * (1 - _ROUNDING) for p in (PREFILL, DECODE)
    )
    return prefill_s, decode_s


def _is_possible(instance: Instance) -> bool:
    """Whether all parts are supported and all layers fit, embedding and head aside."""
    d = instance.devices
    parts = (d.supported, d.may_be_first, d.may_be_last)
    if not all(part.any() for part in parts):
        return False
    room = d.allowed_bytes[:, None] - instance.buffer_bytes
    room = room - d.workspace_bytes
    size = d.layer_bytes + d.kv_bytes[:, None]
    num_layers = np.maximum(room, 0) // size
    held = np.where(d.supported, num_layers, 0).max(axis=1)
    return _sum_over_devices(instance, held) >= instance.num_layers * (1 - _ROUNDING)


def _sum_over_devices(instance: Instance, values: Floats | Integers) -> float:
    """Sums over devices; of a group as if all its devices did as the best of them."""
    alone = np.ones(instance.num_devices, dtype=bool)
    total = 0.0
    for group in instance.device_groups:
        members = list(group.members)
        alone[members] = False
        each = values[members] / instance.devices.width[members]
        total += group.num_devices * float(each.max(initial=0.0))
    return total + float(values[alone].sum())


def _slowest_s(instance: Instance, p: int) -> float:
    """Bounds max P or max D: layers spread in proportion to the devices' speeds."""
    fastest = instance.devices.layer_s[p].min(axis=1)
    if (fastest <= 0).any():
        return 0.0
    together = instance.num_layers / _sum_over_devices(instance, 1.0 / fastest)
    return max(together, float(fastest.min()))


def _shared_bound(
    instance: Instance, p: int, alone_s: float, layer_s: Float[np.ndarray, "J B"]
) -> float:
    """Raises the bound of a phase, `alone_s`, if one shared machine holds every device.

    `layer_s` are the seconds of one layer for all micro-batches and rounds.
    """
    for host in instance.hosts:
        if set(host.members) == set(range(instance.num_devices)):
            # A second on a mesh is one of each of its devices.
            layer_min_s = float((layer_s * instance.devices.width[:, None]).min())
            serial = host.serial_fraction(PHASES[p])
            work_s = instance.num_layers * layer_min_s
            return max(alone_s, (1 - serial) * alone_s + serial * work_s)
    return alone_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """Units of a Pyomo model's numbers: a bound on the latency, and the largest Σω."""

    time_s: float
    omega: float


def scaling_of(instance: Instance) -> Scaling:
    """Chooses the units of an instance."""
    bound_s = latency_bound_s(instance)
    return Scaling(
        time_s=bound_s if 0 < bound_s < float("inf") else 1.0,
        omega=instance.fixed_omega
        + float(instance.omega.max(axis=1).sum())
        + float(instance.wire_omega.max()) * (instance.num_layers - 1)
        or 1.0,
    )


def all_rounds(seconds: Floats, instance: Instance, unit_s: float) -> Floats:
    """Returns the seconds of all rounds of each phase [P, …], in units.

    Decode seconds of all n − 1 steps are of the order of the latency, as prefill's are.
    """
    steps = max(instance.num_rounds[DECODE], 1)
    return np.stack([seconds[PREFILL] / unit_s, seconds[DECODE] * (steps / unit_s)])
