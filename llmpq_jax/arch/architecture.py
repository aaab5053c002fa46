"""Architecture of a decoder: its sizes and choices, without weights."""

from __future__ import annotations

from typing import Literal

from llmpq_jax.schema.record import record, require_at_most, require_positive
from llmpq_jax.schema.workload import MAX_LAYERS, MAX_TOKENS

# Far beyond any model, and low enough that bytes of all its layers are counted exactly.
_MAX_WIDTH = 1 << 20

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@record
class Rope:
    """Rotary position embedding (Su et al., 2021, "RoFormer").

    Attributes:
        theta: Base of the geometric series of rotation frequencies.
        scaling: Extension of the context: "linear" divides positions by `factor`;
            "llama3" divides low frequencies by it, keeps high ones, and interpolates
            between them.
        factor: Factor of the extension, see `scaling`.
        low_frequency_factor: With "llama3", wavelengths longer than the original context
            divided by this have a low frequency.
        high_frequency_factor: With "llama3", wavelengths shorter than the original
            context divided by this have a high frequency.
        original_positions: With "llama3", length of the context before the extension.
    """

    theta: float
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192


@record
class Architecture:
    """A decoder-only transformer, by the choices in which families differ.

    The names of the fields are part of every fingerprint.

    Attributes:
        family: Name of the family, Hugging Face's `model_type`.
        num_layers: Number of decoder layers.
        hidden_size: Width of hidden states.
        intermediate_size: Width inside the MLP.
        num_heads: Number of query heads.
        num_kv_heads: Number of key-value heads, a divisor of `num_heads`.
        head_dim: Width of a head.
        vocabulary_size: Number of tokens in the vocabulary.
        max_positions: Longest context that the model was trained for.
        activation: Activation function of the MLP.
        is_gated: True if the MLP multiplies two projections, one of them activated.
        norm: Type of all norms.
        norm_eps: Epsilon of all norms.
        norm_position: Position of norms: "before" each block, or "after" its residual
            sum (OPT-350m).
        has_final_norm: True if hidden states are normalised before the head.
        has_embedding_norm: True if embeddings are normalised (BLOOM).
        position: Type of position encoding.
        rope: Rotary position embedding; None unless `position` is "rope".
        position_offset: Number of rows of the position table before position 0 (OPT: 2).
        layer_windows: Number of last tokens that each layer attends to; None for all.
        has_qkv_bias: True if query, key and value projections have biases.
        has_output_bias: True if the output projection of attention has a bias.
        has_mlp_bias: True if the projections of the MLP have biases.
        has_qk_norm: True if query and key heads are normalised (Qwen3).
        embedding_size: Width of token embeddings; if it differs from `hidden_size`,
            projections follow the embedding and precede the head.
        ties_head: True if the head is the transposed embedding.
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
        require_positive(self)
        require_at_most(
            self,
            num_layers=MAX_LAYERS,
            hidden_size=_MAX_WIDTH,
            intermediate_size=_MAX_WIDTH,
            embedding_size=_MAX_WIDTH,
            num_heads=_MAX_WIDTH,
            head_dim=_MAX_WIDTH,
            vocabulary_size=MAX_TOKENS,
            max_positions=MAX_TOKENS,
        )
        if self.num_heads * self.head_dim > _MAX_WIDTH:
            msg = f"{self.num_heads} heads of width {self.head_dim} are {self.num_heads * self.head_dim} wide together, expected at most {_MAX_WIDTH:,}"
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
