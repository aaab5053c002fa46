"""Whom a change is made to: one device, or all the equal ones that meshes are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.search.search_result import Found


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Devices that a change is made to.

    Attributes:
        members: As indices of axis J.
        devices: Their names, and those of devices alike.
        text: For people.
        memory_bytes: Of each.
        is_used: By the plan.
        must_use: Whether a person wants them used.
    """

    members: tuple[int, ...]
    devices: tuple[str, ...]
    text: str
    memory_bytes: int
    is_used: bool
    must_use: bool


def find_groups(problem: Problem, plan: Found) -> Iterator[Group]:
    """One device of each type, a used one where there is one; whole pools."""
    instance, used = plan.instance, set(plan.placement.devices)
    pools = {j: pool for pool in instance.pools for j in pool.members}
    seen: set[tuple[int, ...]] = set()
    for alike in device_types(instance).members:
        pool = pools.get(alike[0])
        if pool is None:
            ordered = sorted(alike, key=lambda j: j not in used)
            members, unit = (ordered[0],), problem.units[ordered[0]]
            devices = tuple(problem.units[j].places[0].name for j in alike)
            text = unit.name
            if len(alike) > 1:
                text += f" (one of {len(alike)} alike)"
        else:
            members, unit = pool.members, problem.units[pool.members[0]]
            devices = tuple(sorted(place.name for place in unit.places))
            text = f"each of {', '.join(devices)}"
        if members in seen:
            continue
        seen.add(members)
        yield Group(
            members=members,
            devices=devices,
            text=text,
            memory_bytes=unit.places[0].device.memory_bytes,
            is_used=bool(used & set(members)),
            must_use=bool(instance.must_use[list(members)].any()),
        )
