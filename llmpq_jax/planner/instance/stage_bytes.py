"""Bytes of stages, by part: of one, or of every possible one at once.

All layers are alike, so bytes depend on how many of them a stage has at which precision,
and on whether it embeds and holds the head. Axes: T devices asked about, C counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.schema.memory_terms import MemoryTerms


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class StageBytes:
    """Parts as in `MemoryTerms`, each [T, C] or what broadcasts to it."""

    weights: Integers
    kv_cache: Integers
    embedding: Integers
    head: Integers
    workspace: Integers
    buffers: int

    @property
    def total(self) -> Integers:
        """[T, C]: all parts together."""
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
    """Adds up what stages need.

    Args:
        instance: Whose numbers.
        devices: As indices of axis J.
        counts: [C, B], layers at each precision.
        is_first: They embed.
        is_last: They hold the head.
    """
    places = list(devices)
    workspace = np.zeros((len(places), len(counts)), dtype=np.int64)
    for b in range(counts.shape[1]):
        need = instance.workspace_bytes[places, b][:, None]
        workspace = np.maximum(workspace, np.where(counts[:, b] > 0, need, 0))
    nothing = np.zeros((len(places), 1), dtype=np.int64)
    embedding = head = nothing
    if is_first:
        embedding = instance.embedding_bytes[places][:, None]
        need = instance.embedding_workspace_bytes[places][:, None]
        workspace = np.maximum(workspace, need)
    if is_last:
        head = instance.head_bytes[places][:, None]
        need = instance.head_workspace_bytes[places][:, None]
        workspace = np.maximum(workspace, need)
    return StageBytes(
        weights=instance.layer_bytes[places] @ counts.T,
        kv_cache=instance.kv_bytes[places][:, None] * counts.sum(axis=1),
        embedding=embedding,
        head=head,
        workspace=workspace,
        buffers=instance.buffer_bytes + (0 if is_first else instance.received_bytes),
    )
