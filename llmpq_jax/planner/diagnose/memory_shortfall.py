"""The plan of the least memory shortfall, over all orders and subsets of devices.

Bytes of a stage depend on how many layers it holds at which bits and on whether it is the
first or the last, so the order of the devices in between changes nothing, and one pass
over the devices is enough. With lack[j, r, k] the bytes that device j is short of for k
layers in role r, and f and l whether a first and a last stage are there,

    least[j + 1, i + k, f', l'] = min over k and r of  least[j, i, f, l] + lack[j, r, k].

Of the bits of one stage the least is reached by a single precision: its workspace is the
largest of its layers', so all of them may have the cheapest weights within that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.schema.memory_terms import MemoryTerms

# Whether a stage is the first and whether it is the last.
_Role = tuple[bool, bool]
# Least bytes lacking, by which of the first and the last stage are there.
_Tables = dict[_Role, Floats]
_Choices = Mapping[_Role, Integers]
_ROLES: tuple[_Role, ...] = ((False, False), (True, False), (False, True), (True, True))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageShortfall:
    """A stage of the plan of the least shortfall, on a device of axis J.

    `lack_bytes` are those beyond what the device may fill; 0 if it fits.
    """

    device: int
    num_layers: int
    bits: int
    terms: MemoryTerms
    lack_bytes: int


def min_shortfall(instance: Instance) -> tuple[StageShortfall, ...] | None:
    """Returns the stages of the plan of the least shortfall, or None if no order serves.

    The first and the last are the first and the last stage; the others have no order.
    """
    num_layers = instance.num_layers
    tables: _Tables = {
        role: np.full((1, num_layers + 1), np.inf, dtype=float) for role in _ROLES
    }
    tables[False, False][0, 0] = 0.0
    trace: list[tuple[int, _Choices]] = []

    def take(members: Sequence[int], num_devices: int, *, must_use: bool) -> None:
        """Takes devices of a group, or one that is its own group."""
        nonlocal tables
        tables = {
            role: np.concatenate(
                [table, np.full((num_devices, num_layers + 1), np.inf)]
            )
            for role, table in tables.items()
        }
        for j in members:
            tables, choices = _with_device(instance, j, tables)
            trace.append((j, choices))
        if must_use:
            for table in tables.values():
                table[:num_devices] = np.inf
        # From here on the number of devices taken makes no difference.
        chosen = {role: table.argmin(axis=0) for role, table in tables.items()}
        trace.append((-1, chosen))
        tables = {role: table.min(axis=0)[None] for role, table in tables.items()}

    width, must_use = instance.devices.width, instance.devices.must_use
    grouped = {j for group in instance.device_groups for j in group.members}
    for j in range(instance.num_devices):
        if j not in grouped:
            take([j], int(width[j]), must_use=bool(must_use[j]))
    for group in instance.device_groups:
        must = any(must_use[j] for j in group.members)
        take(group.members, group.num_devices, must_use=must)
    if not np.isfinite(tables[True, True][0, num_layers]):
        return None
    held = _held(instance, trace)
    held.sort(key=lambda stage: (not stage[2][0], stage[2][1]))
    return tuple(_shortfall(instance, j, num, *role) for j, num, role in held)


def _with_device(
    instance: Instance, j: int, tables: _Tables
) -> tuple[_Tables, dict[_Role, Integers]]:
    """Takes one more device; also returns what it holds in each new entry.

    Tables are over devices taken of the group and layers placed. A choice is 4 times the
    layers plus the number of the role; 0 leaves the device idle.
    """
    lacks = {role: _lacks(instance, j, *role) for role in _ROLES}
    width = int(instance.devices.width[j])
    after, chosen = {}, {}
    for state in _ROLES:
        best = tables[state].copy()
        choice = np.zeros(best.shape, dtype=np.int64)
        for number, role in enumerate(_ROLES):
            if any(own and not has for own, has in zip(role, state, strict=True)):
                continue
            before = tables[_without(state, role)]
            for num in range(1, instance.num_layers + 1):
                moved = before[:-width, : before.shape[1] - num] + lacks[role][num]
                better = moved < best[width:, num:]
                best[width:, num:][better] = moved[better]
                choice[width:, num:][better] = 4 * num + number
        after[state], chosen[state] = best, choice
    return after, chosen


def _without(state: _Role, role: _Role) -> _Role:
    return state[0] and not role[0], state[1] and not role[1]


def _held(
    instance: Instance, trace: list[tuple[int, _Choices]]
) -> list[tuple[int, int, _Role]]:
    """Follows the choices from the end: device, layers and role of each stage."""
    stages, end, state, taken = [], instance.num_layers, (True, True), 0
    for j, choices in reversed(trace):
        if j < 0:
            taken = int(choices[state][end])
            continue
        num, number = divmod(int(choices[state][taken, end]), 4)
        if num:
            role = _ROLES[number]
            stages.append((j, num, role))
            end, state = end - num, _without(state, role)
            taken -= int(instance.devices.width[j])
    return stages


def _lacks(
    instance: Instance, j: int, is_first: bool, is_last: bool
) -> Float[np.ndarray, " L+1"]:
    """Returns the bytes that a device lacks for each number of layers in a role."""
    num_layers, d = instance.num_layers, instance.devices
    lacks = np.full(num_layers + 1, np.inf)
    if (is_first and not d.may_be_first[j]) or (is_last and not d.may_be_last[j]):
        return lacks
    # One stage is the first and the last only if it holds the whole model.
    lengths = [num_layers] if is_first and is_last else [*range(1, num_layers + 1)]
    if not d.supported[j].any():
        return lacks
    counts = _of_one_precision(instance, j, lengths)
    need = stage_bytes(instance, [j], counts, is_first=is_first, is_last=is_last)
    total = need.total.reshape(-1, len(lengths)).min(axis=0)
    lacks[lengths] = np.maximum(total - d.allowed_bytes[j], 0)
    return lacks


def _shortfall(
    instance: Instance, j: int, num_layers: int, is_first: bool, is_last: bool
) -> StageShortfall:
    """Returns a stage at the bits that need the least; of equal ones, the highest."""
    counts = _of_one_precision(instance, j, [num_layers])
    need = stage_bytes(instance, [j], counts, is_first=is_first, is_last=is_last)
    best = int(need.total[0].argmin())
    terms = need.terms(0, best)
    return StageShortfall(
        device=j,
        num_layers=num_layers,
        bits=instance.bits[int(counts[best].argmax())],
        terms=terms,
        lack_bytes=max(0, terms.total - int(instance.devices.allowed_bytes[j])),
    )


def _of_one_precision(instance: Instance, j: int, lengths: list[int]) -> Integers:
    """Returns counts of these lengths at each precision that a device serves, [C, B]."""
    one = np.eye(len(instance.bits), dtype=np.int64)[instance.devices.supported[j]]
    return np.kron(one, np.array(lengths)[:, None])
