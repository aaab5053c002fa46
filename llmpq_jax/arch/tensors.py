"""Every weight of a decoder, described once: its name, shape and how it is cut.

The loader checks files against these descriptions, the profiler draws random weights
from them, the memory model adds their bytes up.
"""

from __future__ import annotations

from math import gcd
from typing import Literal

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.schema.precision import Bits, group_size_for, matrix_bytes, scale_bytes
from llmpq_jax.schema.record import record

Shard = Literal["whole", "columns", "rows"]


@record
class TensorSpec:
    """One weight.

    Attributes:
        name: Ours, such as "attention.query.weight".
        shape: [C, F] of a matrix (contracted, features), [F] of a vector; the token
            and position tables are [V, E] and [positions, D].
        is_matrix: Multiplied from the left by hidden states, so it may be quantised.
        shard: Which axis a tensor-parallel stage cuts: "columns" the last, "rows"
            the first.
    """

    name: str
    shape: tuple[int, ...]
    is_matrix: bool = False
    shard: Shard = "whole"


def layer_tensors(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """Describes one decoder layer; all layers of a model are alike."""
    a = architecture
    query_width = a.num_heads * a.head_dim
    kv_width = a.num_kv_heads * a.head_dim
    tensors = [
        *_norm(a, "attention_norm", a.hidden_size),
        *_linear(
            "attention.query",
            a.hidden_size,
            query_width,
            "columns",
            has_bias=a.has_qkv_bias,
        ),
        *_linear(
            "attention.key", a.hidden_size, kv_width, "columns", has_bias=a.has_qkv_bias
        ),
        *_linear(
            "attention.value",
            a.hidden_size,
            kv_width,
            "columns",
            has_bias=a.has_qkv_bias,
        ),
        *_linear(
            "attention.output",
            query_width,
            a.hidden_size,
            "rows",
            has_bias=a.has_output_bias,
        ),
    ]
    if a.has_qk_norm:
        tensors += _norm(a, "attention.query_norm", a.head_dim)
        tensors += _norm(a, "attention.key_norm", a.head_dim)
    tensors += _norm(a, "mlp_norm", a.hidden_size)
    ups = ("mlp.gate", "mlp.up") if a.is_gated else ("mlp.up",)
    for name in ups:
        tensors += _linear(
            name, a.hidden_size, a.intermediate_size, "columns", has_bias=a.has_mlp_bias
        )
    tensors += _linear(
        "mlp.down", a.intermediate_size, a.hidden_size, "rows", has_bias=a.has_mlp_bias
    )
    return tuple(tensors)


def embedding_tensors(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """Describes what the first stage holds before its layers."""
    a = architecture
    tensors = [TensorSpec(name="tokens", shape=(a.vocabulary_size, a.embedding_size))]
    if a.position == "learned":
        rows = a.max_positions + a.position_offset
        tensors.append(TensorSpec(name="positions", shape=(rows, a.hidden_size)))
    if a.embedding_size != a.hidden_size:
        tensors += _linear(
            "project_in", a.embedding_size, a.hidden_size, "whole", has_bias=False
        )
    if a.has_embedding_norm:
        tensors += _norm(a, "norm", a.hidden_size)
    return tuple(tensors)


def head_tensors(architecture: Architecture) -> tuple[TensorSpec, ...]:
    """Describes what the last stage holds after its layers; a tied head is a copy."""
    a = architecture
    tensors: list[TensorSpec] = []
    if a.has_final_norm:
        tensors += _norm(a, "norm", a.hidden_size)
    if a.embedding_size != a.hidden_size:
        tensors += _linear(
            "project_out", a.hidden_size, a.embedding_size, "whole", has_bias=False
        )
    tensors += _linear(
        "vocabulary", a.embedding_size, a.vocabulary_size, "columns", has_bias=False
    )
    return tuple(tensors)


def tensor_bytes(
    tensor: TensorSpec, *, bits: Bits, group_size: int, tensor_width: int = 1
) -> int:
    """Returns the bytes of a weight, or of each of its shards.

    Only matrices are quantised. A cut that falls inside a group repeats the group's
    scale on both sides, so that shards hold the very integers of the whole.
    """
    if not tensor.is_matrix:
        shape = list(tensor.shape)
        if shard_for(tensor, tensor_width) == "columns":
            shape[-1] = _cut(tensor, shape[-1], tensor_width)
        size = 2
        for length in shape:
            size *= length
        return size
    contracted, features, group = _matrix_shard(
        tensor, group_size=group_size, tensor_width=tensor_width
    )
    return matrix_bytes(contracted, features, bits=bits, group=group)


def tensor_scale_bytes(
    tensor: TensorSpec, *, bits: Bits, group_size: int, tensor_width: int = 1
) -> int:
    """Returns the bytes of the scales among those of `tensor_bytes`."""
    if not tensor.is_matrix:
        return 0
    contracted, features, group = _matrix_shard(
        tensor, group_size=group_size, tensor_width=tensor_width
    )
    return scale_bytes(contracted, features, bits=bits, group=group)


def _matrix_shard(
    tensor: TensorSpec, *, group_size: int, tensor_width: int
) -> tuple[int, int, int]:
    """Contracted, features and group of a matrix, or of each of its shards."""
    contracted, features = tensor.shape
    group = group_size_for(contracted, group_size)
    shard = shard_for(tensor, tensor_width)
    if shard == "columns":
        features = _cut(tensor, features, tensor_width)
    elif shard == "rows":
        contracted = _cut(tensor, contracted, tensor_width)
        group = gcd(group, contracted)
    return contracted, features, group


def tensors_bytes(
    tensors: tuple[TensorSpec, ...],
    *,
    bits: Bits,
    group_size: int,
    tensor_width: int = 1,
) -> int:
    """Adds up `tensor_bytes`."""
    return sum(
        tensor_bytes(
            tensor, bits=bits, group_size=group_size, tensor_width=tensor_width
        )
        for tensor in tensors
    )


def shard_for(tensor: TensorSpec, tensor_width: int) -> Shard:
    """Returns how a weight is cut on a stage of so many devices.

    A head whose vocabulary does not divide is kept whole on each of them.
    """
    is_head = tensor.name == "vocabulary.weight"
    if tensor_width == 1 or (is_head and tensor.shape[-1] % tensor_width):
        return "whole"
    return tensor.shard


def tensor_widths(architecture: Architecture, most: int) -> tuple[int, ...]:
    """Returns the tensor-parallel widths up to `most` that cut a layer evenly."""
    a = architecture
    return tuple(
        width
        for width in range(1, most + 1)
        if a.num_kv_heads % width == 0
        and a.intermediate_size % width == 0
        and (a.intermediate_size // width) % 2 == 0
        and (a.num_kv_heads * a.head_dim // width) % 2 == 0
    )


def _linear(
    name: str, contracted: int, features: int, shard: Shard, *, has_bias: bool
) -> list[TensorSpec]:
    tensors = [
        TensorSpec(
            name=f"{name}.weight",
            shape=(contracted, features),
            is_matrix=True,
            shard=shard,
        )
    ]
    if has_bias:
        cut: Shard = "columns" if shard == "columns" else "whole"
        tensors.append(TensorSpec(name=f"{name}.bias", shape=(features,), shard=cut))
    return tensors


def _norm(architecture: Architecture, name: str, width: int) -> list[TensorSpec]:
    tensors = [TensorSpec(name=f"{name}.weight", shape=(width,))]
    if architecture.norm == "layer":
        tensors.append(TensorSpec(name=f"{name}.bias", shape=(width,)))
    return tensors


def _cut(tensor: TensorSpec, length: int, width: int) -> int:
    if length % width:
        msg = f"{tensor.name} of shape {list(tensor.shape)} cannot be cut into {width}: expected a tensor width that divides {length}"
        raise ValueError(msg)
    return length // width
