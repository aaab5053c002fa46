"""Bytes of stages, by part, and which ones fit: of one, or of every possible one at once.

All layers have equal shapes, so bytes depend on how many of them a stage has at which
precision, and on whether it embeds and holds the head. Axes: T devices, C counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool

from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.schema.memory_terms import MemoryTerms

Role = Literal["middle", "first", "last", "only"]
# In the order of whether it is the first + 2 · whether it is the last.
ROLES: tuple[Role, ...] = ("middle", "first", "last", "only")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class StageBytes:
    """Parts as in `MemoryTerms`, each [T, C] or a shape that broadcasts to it."""

    weights: Integers
    kv_cache: Integers
    embedding: Integers
    head: Integers
    workspace: Integers
    buffers: int

    @property
    def total(self) -> Integers:
        """All parts together, [T, C]."""
        held = self.weights + self.kv_cache + self.embedding + self.head
        return held + self.workspace + self.buffers

    def terms(self, t: int, c: int) -> MemoryTerms:
        """Returns the parts of one stage."""
        return MemoryTerms(
            weights=int(self.weights[t, c]),
            kv_cache=int(self.kv_cache[t, c]),
            embedding=int(self.embedding[t, 0]),
            head=int(self.head[t, 0]),
            workspace=int(self.workspace[t, c]),
            buffers=self.buffers,
        )


def stage_bytes(
    instance: Instance,
    devices: Sequence[int],
    counts: Integers,
    *,
    is_first: bool,
    is_last: bool,
) -> StageBytes:
    """Returns the bytes of stages of counts [C, B] on each of some devices of axis J."""
    d, own = instance.devices, list(devices)
    nothing = np.zeros((len(own), 1), dtype=np.int64)
    embedding = d.embedding_bytes[own, None] if is_first else nothing
    head = d.head_bytes[own, None] if is_last else nothing
    needs = [
        np.where(counts[:, b] > 0, d.workspace_bytes[own, b][:, None], 0)
        for b in range(counts.shape[1])
    ]
    needs += [d.embedding_workspace_bytes[own, None]] if is_first else []
    needs += [d.head_workspace_bytes[own, None]] if is_last else []
    workspace = np.zeros((len(own), len(counts)), dtype=np.int64)
    for need in needs:
        workspace = np.maximum(workspace, need)
    return StageBytes(
        weights=d.layer_bytes[own] @ counts.T,
        kv_cache=d.kv_bytes[own, None] * counts.sum(axis=1),
        embedding=embedding,
        head=head,
        workspace=workspace,
        buffers=instance.buffer_bytes + (0 if is_first else instance.received_bytes),
    )


def fitting_stages(
    instance: Instance, devices: Sequence[int], counts: Integers
) -> dict[Role, Bool[np.ndarray, "T C"]]:
    """Returns whether stages have parts that their devices serve and fit, by role."""
    d = instance.devices.take(devices)
    is_served = np.stack([(counts[:, ~own] == 0).all(axis=1) for own in d.supported])
    fits: dict[Role, Bool[np.ndarray, "T C"]] = {}
    for role in ROLES:
        is_first, is_last = role in ("first", "only"), role in ("last", "only")
        need = stage_bytes(
            instance, devices, counts, is_first=is_first, is_last=is_last
        )
        may_be = (d.may_be_first | (not is_first)) & (d.may_be_last | (not is_last))
        fits[role] = is_served & may_be[:, None]
        fits[role] &= need.total <= d.allowed_bytes[:, None]
    return fits


def num_fitting_stages(instance: Instance, devices: Sequence[int]) -> Integers:
    """Returns how many stages fit each of some devices of one signature, [T, roles].

    They differ in the bytes that a plan may fill alone, and what fits one of them also
    fits those with more. So the same stages fit two of them if as many do.
    """
    d, own = instance.devices, list(devices)
    first = own[0]
    supported = d.supported[first]
    layer_bytes = (d.layer_bytes[first] + d.kv_bytes[first])[supported]
    allowed = d.allowed_bytes[own]
    max_length = instance.num_layers
    if supported.any():
        room = max(0, int(allowed.max()) - instance.buffer_bytes)
        max_length = min(max_length, room // int(layer_bytes.min()))
    counts = _counts_up_to(max_length, len(instance.bits))
    counts = counts[(counts[:, ~supported] == 0).all(axis=1)]
    lengths = counts.sum(axis=1)
    fitting = np.zeros((len(own), len(ROLES)), dtype=np.int64)
    for r, role in enumerate(ROLES):
        is_first, is_last = role in ("first", "only"), role in ("last", "only")
        if (is_first and not d.may_be_first[first]) or (
            is_last and not d.may_be_last[first]
        ):
            continue
        # Others hold what the first and the last stage do not.
        num_others = (not is_first) + (not is_last)
        is_length = lengths <= instance.num_layers - num_others
        if role == "only":
            is_length = lengths == instance.num_layers
        need = stage_bytes(
            instance, own[:1], counts[is_length], is_first=is_first, is_last=is_last
        )
        ordered = np.sort(need.total[0])
        fitting[:, r] = np.searchsorted(ordered, allowed, side="right")
    return fitting


@lru_cache(maxsize=16)
def _counts_up_to(max_length: int, num_bits: int) -> Integers:
    """Lists all counts of 1 to `max_length` layers at each precision, [C, B]."""
    grid = np.indices((max_length + 1,) * num_bits).reshape(num_bits, -1).T
    lengths = grid.sum(axis=1)
    return grid[(lengths > 0) & (lengths <= max_length)]
