"""Lower bounds in closed form, to leave most micro-batch pairs unsolved."""

from __future__ import annotations

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.schema.measurements import Phase

# A plan's value is the same sum taken in another order, and may round down.
_ROUNDING = 1e-12


def objective_bound(instance: Instance) -> float:
    """Returns a number no plan's objective is below; infinite where none exists."""
    if not _is_possible(instance):
        return float("inf")
    value = latency_bound_s(instance) + instance.theta * omega_bound(instance)
    return value * (1 - _ROUNDING)


def omega_bound(instance: Instance) -> float:
    """Returns a number no plan's Σω is below; infinite where none exists."""
    if not _is_possible(instance):
        return float("inf")
    value = instance.fixed_omega + float(instance.allowed_omega.min(axis=1).sum())
    return value * (1 - _ROUNDING)


def latency_bound_s(instance: Instance) -> float:
    """Returns seconds no plan's latency is below.

    The schedule grows with ΣP, max P, ΣD and max D, so bounds of these four bound it. A
    sum is least with every layer where it is fastest; a maximum, with the layers spread
    in proportion to the devices' speeds, each at its fastest precision. Memory, quality
    and hops are left out, and so may only add. Infinite where no plan exists.
    """
    if not _is_possible(instance):
        return float("inf")
    return sum(phase_bounds_s(instance))


def phase_bounds_s(instance: Instance) -> tuple[float, float]:
    """Returns seconds that prefill and decode are not below; see `latency_bound_s`."""
    ends = instance.embedding_prefill_s.min() + instance.head_prefill_s.min()
    # There is one stage at least.
    ends += instance.dispatch_prefill_s.min()
    sum_p, max_p = _sum_and_slowest(instance, instance.layer_prefill_s, ends)
    prefill = _shared_bound(
        instance,
        "prefill",
        sum_p + (instance.num_prefill - 1) * max_p,
        instance.num_prefill * instance.layer_prefill_s,
    )
    if instance.new_tokens == 1:
        return prefill, 0.0
    ends = instance.embedding_decode_s.min() + instance.head_decode_s.min()
    ends += instance.whole_dispatch_decode_s.min()
    sum_d, max_d = _sum_and_slowest(instance, instance.layer_decode_s, ends)
    decode = sum_d + (instance.num_decode - 1) * max_d
    decode += (instance.new_tokens - 2) * max(instance.num_decode * max_d, sum_d)
    steps = (instance.new_tokens - 1) * instance.num_decode
    return prefill, _shared_bound(
        instance, "decode", decode, steps * instance.layer_decode_s
    )


def slowest_bounds_s(instance: Instance) -> tuple[float, float]:
    """Returns seconds that the slowest stages of prefill and decode are not below."""
    prefill = _sum_and_slowest(instance, instance.layer_prefill_s, 0.0)[1]
    decode = _sum_and_slowest(instance, instance.layer_decode_s, 0.0)[1]
    return prefill * (1 - _ROUNDING), decode * (1 - _ROUNDING)


def _is_possible(instance: Instance) -> bool:
    """Whether every part is supported somewhere and all layers find room, ends aside."""
    parts = (instance.supported, instance.may_be_first, instance.may_be_last)
    if not all(part.any() for part in parts):
        return False
    room = instance.allowed_bytes[:, None] - instance.buffer_bytes
    room = room - instance.workspace_bytes
    size = instance.layer_bytes + instance.kv_bytes[:, None]
    most = np.maximum(room, 0) // size
    held = np.where(instance.supported, most, 0).max(axis=1)
    return _together(instance, held) >= instance.num_layers * (1 - _ROUNDING)


def _together(instance: Instance, values: Floats | Integers) -> float:
    """Adds up what devices do; of a pool as if all did what its best ones do each."""
    alone = np.ones(instance.num_devices, dtype=bool)
    total = 0.0
    for device_group in instance.device_groups:
        members = list(device_group.members)
        alone[members] = False
        each = values[members] / instance.width[members]
        total += device_group.num_devices * float(each.max(initial=0.0))
    return total + float(values[alone].sum())


def _sum_and_slowest(
    instance: Instance, layer_s: Floats, ends_s: float
) -> tuple[float, float]:
    fastest = layer_s.min(axis=1)
    if (fastest <= 0).any():
        return float(instance.num_layers * fastest.min() + ends_s), 0.0
    together = instance.num_layers / _together(instance, 1.0 / fastest)
    slowest = max(together, float(fastest.min()))
    return float(instance.num_layers * fastest.min() + ends_s), slowest


def _shared_bound(
    instance: Instance, phase: Phase, alone_s: float, layer_s: Floats
) -> float:
    """Raises the seconds of a phase where one shared machine holds every device.

    Args:
        instance: The case.
        phase: Which.
        alone_s: It takes no less, whatever is shared.
        layer_s: [J, B] of one layer and all micro-batches.
    """
    for host in instance.hosts:
        if set(host.members) == set(range(instance.num_devices)):
            # A second on a mesh is one of each of its devices.
            least = float((layer_s * instance.width[:, None]).min())
            serial = host.serial_fraction(phase)
            work_s = instance.num_layers * least
            return max(alone_s, (1 - serial) * alone_s + serial * work_s)
    return alone_s
