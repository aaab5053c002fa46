"""The plan that lacks the least memory, over all orders and subsets of devices.

Bytes of a stage depend on how many layers it holds at which bits and on whether it is the
first or the last, and all layers are alike: so which device comes where in between changes
nothing, and one pass over the devices decides. With lack[j, r, k] the bytes that device j
is short of for k layers in role r, f and l whether a first and a last stage are there,

    least[j + 1, i + k, f', l'] = min over k and r of  least[j, i, f, l] + lack[j, r, k].

Of the bits of one stage the least is reached by a single precision: its workspace is the
largest of its layers', so all of them may have the cheapest weights within that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmpq_jax.cost.memory import MemoryTerms
from llmpq_jax.cost.tables import Floats
from llmpq_jax.solver.instance import Instance

# Whether a stage is the first and whether it is the last.
_ROLES = ((False, False), (True, False), (False, True), (True, True))
_Trace = list[dict[tuple[bool, bool], list[tuple[int, tuple[bool, bool]] | None]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageNeed:
    """A stage of the plan that lacks the least.

    Attributes:
        device: Its index on axis J.
        num_layers: It holds.
        bits: Of each.
        terms: What it needs, by part.
        lack_bytes: Beyond what the device may fill; 0 where it fits.
    """

    device: int
    num_layers: int
    bits: int
    terms: MemoryTerms
    lack_bytes: int


def least_shortage(instance: Instance) -> tuple[StageNeed, ...] | None:
    """Returns the stages of the plan that lacks the least; nothing where no order is.

    In pipeline order, but that those between the ends may change places.
    """
    num_layers = instance.num_layers
    least = {role: np.full(num_layers + 1, np.inf) for role in _ROLES}
    least[False, False][0] = 0.0
    trace: _Trace = []
    for j in range(instance.num_devices):
        lacks = {role: _lacks(instance, j, *role) for role in _ROLES}
        least, chosen = _with_device(least, lacks, must_use=bool(instance.must_use[j]))
        trace.append(chosen)
    if not np.isfinite(least[True, True][num_layers]):
        return None
    held = _held(trace, num_layers)
    held.sort(key=lambda stage: (not stage[2][0], stage[2][1]))
    return tuple(_need(instance, j, num, *role) for j, num, role in held)


def shortage_bytes(instance: Instance) -> int | None:
    """Returns the bytes that all devices of that plan lack together."""
    stages = least_shortage(instance)
    return None if stages is None else sum(stage.lack_bytes for stage in stages)


def _with_device(
    least: dict[tuple[bool, bool], Floats],
    lacks: dict[tuple[bool, bool], Floats],
    *,
    must_use: bool,
) -> tuple[
    dict[tuple[bool, bool], Floats],
    dict[tuple[bool, bool], list[tuple[int, tuple[bool, bool]] | None]],
]:
    """Takes one more device; also returns what each new entry has it hold."""
    size = len(least[False, False])
    after, chosen = {}, {}
    for state in _ROLES:
        best = np.full(size, np.inf) if must_use else least[state].copy()
        choice: list[tuple[int, tuple[bool, bool]] | None] = [None] * size
        for role in _ROLES:
            if any(own and not has for own, has in zip(role, state, strict=True)):
                continue
            before = least[state[0] and not role[0], state[1] and not role[1]]
            for num in range(1, size):
                moved = before[: size - num] + lacks[role][num]
                better = np.flatnonzero(moved < best[num:]) + num
                best[better] = moved[better - num]
                for end in better:
                    choice[end] = (num, role)
        after[state], chosen[state] = best, choice
    return after, chosen


def _held(trace: _Trace, num_layers: int) -> list[tuple[int, int, tuple[bool, bool]]]:
    """Follows the choices back: device, layers and role of each stage."""
    stages, end, state = [], num_layers, (True, True)
    for j in range(len(trace) - 1, -1, -1):
        choice = trace[j][state][end]
        if choice is not None:
            num, role = choice
            stages.append((j, num, role))
            end -= num
            state = (state[0] and not role[0], state[1] and not role[1])
    return stages


def _lacks(instance: Instance, j: int, is_first: bool, is_last: bool) -> Floats:
    """[L + 1]: bytes that a device lacks for so many layers in a role; 0 is no stage."""
    num_layers = instance.num_layers
    lacks = np.full(num_layers + 1, np.inf)
    if (is_first and not instance.may_be_first[j]) or (
        is_last and not instance.may_be_last[j]
    ):
        return lacks
    # One device is both ends only where it holds the whole model.
    lengths = [num_layers] if is_first and is_last else range(1, num_layers + 1)
    if not instance.supported[j].any():
        return lacks
    for num in lengths:
        lacks[num] = _need(instance, j, num, is_first, is_last).lack_bytes
    return lacks


def _need(
    instance: Instance, j: int, num_layers: int, is_first: bool, is_last: bool
) -> StageNeed:
    """At the bits that need the least; of those that need as much, the highest."""
    needs = []
    for b in np.flatnonzero(instance.supported[j]):
        workspace = instance.workspace_bytes[j, b]
        if is_first:
            workspace = max(workspace, instance.embedding_workspace_bytes[j])
        if is_last:
            workspace = max(workspace, instance.head_workspace_bytes[j])
        terms = MemoryTerms(
            weights=int(num_layers * instance.layer_bytes[b]),
            kv_cache=num_layers * instance.kv_bytes,
            embedding=instance.embedding_bytes if is_first else 0,
            head=instance.head_bytes if is_last else 0,
            workspace=int(workspace),
            buffers=instance.buffer_bytes,
        )
        needs.append((terms.total, terms, instance.bits[b]))
    total, terms, bits = min(needs, key=lambda need: need[0])
    return StageNeed(
        device=j,
        num_layers=num_layers,
        bits=bits,
        terms=terms,
        lack_bytes=max(0, total - int(instance.allowed_bytes[j])),
    )
