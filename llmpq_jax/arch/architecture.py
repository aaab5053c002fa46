"""What a decoder computes, as numbers and choices; nothing here is a weight."""

from __future__ import annotations

from typing import Literal

from llmpq_jax.schema.record import record

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@record
class Rope:
    """Rotary position embedding.

    Attributes:
        theta: Base of the geometric series of rotation rates.
        scaling: "linear" divides positions by `factor`; "llama3" divides the slow
            rates by it, leaves the fast ones, and blends between them.
        factor: See `scaling`.
        low_frequency_factor: Of "llama3": wavelengths longer than the original
            context over this are slow.
        high_frequency_factor: Of "llama3": wavelengths shorter than the original
            context over this are fast.
        original_positions: Of "llama3": context before it was stretched.
    """

    theta: float
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192


@record
class Architecture:
    """A decoder-only transformer, in the choices that tell families apart.

    Attributes:
        family: Hugging Face's `model_type`.
        num_layers: Decoder layers.
        hidden_size: Width of hidden states.
        intermediate_size: Width inside the MLP.
        num_heads: Query heads.
        num_kv_heads: Key-value heads; divides `num_heads`.
        head_dim: Width of a head.
        vocabulary_size: Tokens.
        max_positions: Longest context the model was made for.
        activation: Of the MLP.
        is_gated: The MLP multiplies two projections, one through the activation.
        norm: Kind of all norms.
        norm_eps: Their epsilon.
        norm_position: "before" each block, or "after" its residual sum (OPT-350m).
        has_final_norm: Whether hidden states are normed before the head.
        has_embedding_norm: Whether embeddings are normed (BLOOM).
        position: How a token's place enters.
        rope: Where `position` is "rope".
        position_offset: Rows of the position table before position 0 (OPT: 2).
        layer_windows: For each layer, how many last tokens it attends to; absent for
            all of them.
        has_qkv_bias: Whether query, key and value have biases.
        has_output_bias: Whether attention's output has one.
        has_mlp_bias: Whether the MLP has them.
        has_qk_norm: Whether each query and key head is normed (Qwen3).
        embedding_size: Width of token embeddings; where it differs from
            `hidden_size`, projections stand after the embedding and before the head.
        ties_head: Whether the head is the embedding transposed.
    """

    family: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    max_positions: int
    activation: Activation
    is_gated: bool
    norm: Literal["rms", "layer"]
    norm_eps: float
    norm_position: Literal["before", "after"] = "before"
    has_final_norm: bool = True
    has_embedding_norm: bool = False
    position: Literal["rope", "learned", "alibi"]
    rope: Rope | None = None
    position_offset: int = 0
    layer_windows: tuple[int | None, ...]
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False
    embedding_size: int
    ties_head: bool = False

    def __post_init__(self) -> None:
        for name in (
            "num_layers",
            "hidden_size",
            "intermediate_size",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "vocabulary_size",
            "max_positions",
            "embedding_size",
        ):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}, expected at least 1"
                raise ValueError(msg)
        if self.num_heads % self.num_kv_heads:
            msg = f"{self.num_heads} query heads do not share {self.num_kv_heads} key-value heads evenly"
            raise ValueError(msg)
        if len(self.layer_windows) != self.num_layers:
            msg = f"{len(self.layer_windows)} attention windows for {self.num_layers} layers"
            raise ValueError(msg)
        if (self.position == "rope") != (self.rope is not None):
            msg = f"position is {self.position!r} and rope is {self.rope}: expected rope exactly where position is 'rope'"
            raise ValueError(msg)
        if self.position == "rope" and self.head_dim % 2:
            msg = f"head_dim is {self.head_dim}, expected an even number for rotary positions"
            raise ValueError(msg)
