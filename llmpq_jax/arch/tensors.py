"""Every weight of a decoder, described once: its name, its shape and how it is sharded.

The loader checks files against these descriptions, the profiler draws random weights for
them, and the memory model sums their bytes.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod
from typing import Literal

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.schema.precision import (
    Bits,
    group_size_for,
    matrix_bytes,
    scale_bytes,
    vector_bits,
)
from llmpq_jax.schema.record import record

Shard = Literal["whole", "columns", "rows"]


@record
class TensorSpec:
    """One weight of a decoder.

    Attributes:
        name: Name of the weight, such as "attention.query.weight".
        shape: Shape of the weight: [C, F] (contracted, features) of a matrix, [F] of a
            vector, [V, E] of the token table and [positions, D] of the position table.
        is_matrix: True if hidden states are multiplied by the weight, which may then be
            quantised.
        shard: Axis that a tensor-parallel stage divides: "columns" the last, "rows" the
            first, "whole" none.
    """

    name: str
    shape: tuple[int, ...]
    is_matrix: bool = False
    shard: Shard = "whole"


def layer_tensors(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """Describes the weights of one decoder layer; they are the same for every layer."""
    a = architecture
    hidden, inner = a.hidden_size, a.intermediate_size
    query, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    tensors = _norm(a, "attention_norm", hidden)
    for name, width in (("query", query), ("key", kv), ("value", kv)):
        tensors += _linear(
            f"attention.{name}", hidden, width, "columns", has_bias=a.has_qkv_bias
        )
    tensors += _linear(
        "attention.output", query, hidden, "rows", has_bias=a.has_output_bias
    )
    if a.has_qk_norm:
        tensors += _norm(a, "attention.query_norm", a.head_dim)
        tensors += _norm(a, "attention.key_norm", a.head_dim)
    tensors += _norm(a, "mlp_norm", hidden)
    for name in ("gate", "up") if a.is_gated else ("up",):
        tensors += _linear(
            f"mlp.{name}", hidden, inner, "columns", has_bias=a.has_mlp_bias
        )
    tensors += _linear("mlp.down", inner, hidden, "rows", has_bias=a.has_mlp_bias)
    return tuple(tensors)


def embedding_tensors(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """Describes the weights of the embedding, which the first stage holds."""
    a = architecture
    tensors = [TensorSpec(name="tokens", shape=(a.vocabulary_size, a.embedding_size))]
    if a.position == "learned":
        rows = a.max_positions + a.position_offset
        tensors.append(TensorSpec(name="positions", shape=(rows, a.hidden_size)))
    if a.embedding_size != a.hidden_size:
        tensors += _linear("project_in", a.embedding_size, a.hidden_size, "whole")
    if a.has_embedding_norm:
        tensors += _norm(a, "norm", a.hidden_size)
    return tuple(tensors)


def head_tensors(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """Describes the weights of the head, which the last stage holds; a tied one is a copy."""
    a = architecture
    tensors: list[TensorSpec] = []
    if a.has_final_norm:
        tensors += _norm(a, "norm", a.hidden_size)
    if a.embedding_size != a.hidden_size:
        tensors += _linear("project_out", a.hidden_size, a.embedding_size, "whole")
    tensors += _linear("vocabulary", a.embedding_size, a.vocabulary_size, "columns")
    return tuple(tensors)


def tensor_bytes(
    tensor: TensorSpec, *, bits: Bits, group_size: int, tensor_width: int = 1
) -> int:
    """Returns the bytes of a weight, or of each of its shards.

    Only matrices are quantised. If a group is divided, both shards have its scale, so
    that shards hold the same integers as the whole weight.
    """
    shape = _shard_shape(tensor, tensor_width)
    if not tensor.is_matrix:
        return vector_bits(bits) // 8 * prod(shape)
    group = _shard_group(tensor, shape, group_size)
    return matrix_bytes(*shape, bits=bits, group=group)


def tensor_scale_bytes(
    tensor: TensorSpec, *, bits: Bits, group_size: int, tensor_width: int = 1
) -> int:
    """Returns the part of `tensor_bytes` that the scales take."""
    if not tensor.is_matrix:
        return 0
    shape = _shard_shape(tensor, tensor_width)
    group = _shard_group(tensor, shape, group_size)
    return scale_bytes(*shape, bits=bits, group=group)


def _shard_shape(tensor: TensorSpec, width: int) -> tuple[int, ...]:
    shape, shard = list(tensor.shape), shard_for(tensor, width)
    if shard != "whole":
        axis = -1 if shard == "columns" else 0
        if shape[axis] % width:
            msg = f"{tensor.name} of shape {shape} cannot be cut into {width}: expected a tensor width that divides {shape[axis]}"
            raise ValueError(msg)
        shape[axis] //= width
    return tuple(shape)


def _shard_group(tensor: TensorSpec, shape: tuple[int, ...], group_size: int) -> int:
    return gcd(group_size_for(tensor.shape[0], group_size), shape[0])


def tensors_bytes(
    tensors: tuple[TensorSpec, ...],
    *,
    bits: Bits,
    group_size: int,
    tensor_width: int = 1,
) -> int:
    """Returns the sum of `tensor_bytes` over weights."""
    return sum(
        tensor_bytes(
            tensor, bits=bits, group_size=group_size, tensor_width=tensor_width
        )
        for tensor in tensors
    )


def shard_for(tensor: TensorSpec, tensor_width: int) -> Shard:
    """Returns how a weight is sharded on a stage of `tensor_width` devices.

    A head whose vocabulary is not divisible is whole on each of them.
    """
    is_head = tensor.name == "vocabulary.weight"
    if tensor_width == 1 or (is_head and tensor.shape[-1] % tensor_width):
        return "whole"
    return tensor.shard


def tensor_widths(architecture: Architecture, max_width: int) -> tuple[int, ...]:
    """Returns the tensor-parallel widths up to `max_width` that divide a layer evenly.

    Key-value heads are divided, or copied where there are fewer of them than devices.
    """

    def divides(width: int) -> bool:
        a = for_width(architecture, width)
        return width == 1 or (
            a.num_heads % width == 0
            and a.num_kv_heads % width == 0
            and a.intermediate_size % width == 0
            and (a.intermediate_size // width) % 2 == 0
            and (a.num_kv_heads * a.head_dim // width) % 2 == 0
        )

    return tuple(width for width in range(1, max_width + 1) if divides(width))


def for_width(architecture: Architecture, width: int) -> Architecture:
    """Returns the architecture as a stage of `width` devices serves it.

    If there are fewer key-value heads than devices, each is copied so that every device
    has one; a query head n still reads head n // (N / K) (Shazeer, 2019, shares them).
    """
    a = architecture
    is_copied = width > a.num_kv_heads and width % a.num_kv_heads == 0
    if not is_copied or a.num_heads % width:
        return a
    return replace(a, num_kv_heads=width)


def _linear(
    name: str, contracted: int, features: int, shard: Shard, *, has_bias: bool = False
) -> list[TensorSpec]:
    shape = (contracted, features)
    weight = TensorSpec(name=f"{name}.weight", shape=shape, is_matrix=True, shard=shard)
    if not has_bias:
        return [weight]
    of_bias: Shard = "columns" if shard == "columns" else "whole"
    bias = TensorSpec(name=f"{name}.bias", shape=(features,), shard=of_bias)
    return [weight, bias]


def _norm(architecture: Architecture, name: str, width: int) -> list[TensorSpec]:
    tensors = [TensorSpec(name=f"{name}.weight", shape=(width,))]
    if architecture.norm == "layer":
        tensors.append(TensorSpec(name=f"{name}.bias", shape=(width,)))
    return tensors
