"""Bytes that a stage needs on each of its devices, term by term."""

from __future__ import annotations

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import (
    embedding_tensors,
    for_width,
    head_tensors,
    layer_tensors,
    tensor_scale_bytes,
    tensors_bytes,
)
from llmpq_jax.schema.buckets import bucket_length, num_prefill_chunks
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Activations,
    Bits,
    HeadBits,
    KvBits,
    kv_token_bytes,
    vector_bits,
)
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload

# One micro-batch is computed while the next one is received.
NUM_RECEIVE_BUFFERS = 2
_LOGIT_BYTES = 4


def layer_bytes(
    architecture: Architecture, *, bits: Bits, group_size: int, tensor: int = 1
) -> int:
    """Returns the bytes of one layer's weights."""
    tensors = layer_tensors(for_width(architecture, tensor))
    return tensors_bytes(tensors, bits=bits, group_size=group_size, tensor_width=tensor)


def layer_scale_bytes(
    architecture: Architecture, *, bits: Bits, group_size: int, tensor: int = 1
) -> int:
    """Returns the bytes of the scales of one layer's weights."""
    return sum(
        tensor_scale_bytes(each, bits=bits, group_size=group_size, tensor_width=tensor)
        for each in layer_tensors(for_width(architecture, tensor))
    )


def layer_kv_bytes(
    architecture: Architecture,
    *,
    workload: Workload,
    micro_batch: MicroBatch,
    activations: Activations,
    kv_bits: KvBits = 16,
    tensor: int = 1,
) -> int:
    """Returns the bytes of one layer's keys and values, of all rows together.

    They are bucket(s + n) · rows · `kv_token_bytes`: a cache has the length of the bucket
    of the longest context.
    """
    a = for_width(architecture, tensor)
    slots = bucket_length(workload.context_length) * cache_rows(workload, micro_batch)
    heads = a.num_kv_heads // tensor
    size = ACTIVATION_BYTES[activations]
    return slots * kv_token_bytes(heads, a.head_dim, size, kv_bits=kv_bits)


def cache_rows(workload: Workload, micro_batch: MicroBatch) -> int:
    """Returns the number of rows of all preallocated caches, padding included.

    Each decode micro-batch has its own cache. A larger prefill micro-batch fills several
    caches, so the batch is padded to a multiple of the larger of the two.
    """
    step = max(micro_batch.prefill, micro_batch.decode)
    return -(-workload.batch // step) * step


def embedding_bytes(
    architecture: Architecture, *, head_bits: HeadBits = 16, tensor: int = 1
) -> int:
    """Returns the bytes of the embedding's weights, which the first stage holds."""
    tensors, bits = embedding_tensors(architecture), vector_bits(head_bits)
    return tensors_bytes(tensors, bits=bits, group_size=128, tensor_width=tensor)


def head_bytes(
    architecture: Architecture, *, precision: PrecisionChoice, tensor: int = 1
) -> int:
    """Returns the bytes of the head's weights, which the last stage holds."""
    return tensors_bytes(
        head_tensors(architecture),
        bits=precision.head_bits,
        group_size=precision.group_size,
        tensor_width=tensor,
    )


def logit_share_bytes(architecture: Architecture, *, rows: int, tensor: int) -> int:
    """Returns the bytes of the logits that a device of a mesh computes for the others.

    The head's workspace on each device has them and all logits at the same time. 0 if it
    computes all of them: on one device, or if the vocabulary is not divisible.
    """
    if tensor == 1 or architecture.vocabulary_size % tensor:
        return 0
    return rows * architecture.vocabulary_size // tensor * _LOGIT_BYTES


def sent_bytes(
    architecture: Architecture,
    *,
    workload: Workload,
    micro_batch: MicroBatch,
    activations: Activations,
) -> int:
    """Returns the bytes of the largest hidden states that a stage sends at once.

    Every stage but the first also holds `NUM_RECEIVE_BUFFERS` of its predecessor's.
    """
    prompt = bucket_length(workload.prompt_length)
    chunk = prompt // num_prefill_chunks(prompt, micro_batch.chunk_tokens)
    return hidden_bytes(
        architecture,
        num_tokens=max(micro_batch.prefill * chunk, micro_batch.decode),
        activations=activations,
    )


def hidden_bytes(
    architecture: Architecture, *, num_tokens: int, activations: Activations
) -> int:
    """Returns the bytes of the hidden states of a number of tokens."""
    return num_tokens * architecture.hidden_size * ACTIVATION_BYTES[activations]
