"""Bytes of one stage, counted weight by weight."""

from __future__ import annotations

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.costmodel.memory import (
    NUM_RECEIVE_BUFFERS,
    embedding_bytes,
    head_bytes,
    layer_bytes,
    layer_kv_bytes,
    logit_share_bytes,
    sent_bytes,
)
from llmpq_jax.costmodel.workspace import WorkspaceModel
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload


def stage_memory(
    architecture: Architecture,
    *,
    kind: str,
    bits: tuple[Bits, ...],
    is_first: bool,
    is_last: bool,
    workload: Workload,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    workspace: WorkspaceModel,
    tensor: int = 1,
) -> MemoryTerms:
    """Predicts the memory of one stage.

    Args:
        architecture: Architecture of the model.
        kind: Kind of the stage's devices.
        bits: Precision of each of its layers.
        is_first: Whether it embeds.
        is_last: Whether it holds the head.
        workload: Batch, prompts and new tokens that are served.
        micro_batch: Rows of a prefill and of a decode micro-batch.
        precision: Precisions of head, cache, activations and groups.
        workspace: Model fitted to measurements.
        tensor: Devices the stage is spread over.
    """
    group_size = precision.group_size
    needs = [
        workspace.layer_bytes(
            kind, layer_bits, workload=workload, micro_batch=micro_batch, tensor=tensor
        )
        for layer_bits in sorted(set(bits))
    ]
    if is_first:
        needs.append(
            workspace.embedding_bytes(kind, workload=workload, micro_batch=micro_batch)
        )
    if is_last:
        needs.append(
            workspace.head_bytes(kind, precision.head_bits, micro_batch=micro_batch)
            + logit_share_bytes(
                architecture,
                rows=max(micro_batch.prefill, micro_batch.decode),
                tensor=tensor,
            )
        )
    kv_cache = layer_kv_bytes(
        architecture,
        workload=workload,
        micro_batch=micro_batch,
        activations=precision.activations,
        kv_bits=precision.kv_bits,
        tensor=tensor,
    )
    num_sent_bytes = sent_bytes(
        architecture,
        workload=workload,
        micro_batch=micro_batch,
        activations=precision.activations,
    )
    return MemoryTerms(
        weights=sum(
            layer_bytes(architecture, bits=b, group_size=group_size, tensor=tensor)
            for b in bits
        ),
        kv_cache=len(bits) * kv_cache,
        embedding=embedding_bytes(architecture, tensor=tensor) if is_first else 0,
        head=head_bytes(architecture, precision=precision, tensor=tensor)
        if is_last
        else 0,
        workspace=max(needs),
        buffers=(1 if is_first else 1 + NUM_RECEIVE_BUFFERS) * num_sent_bytes,
    )
