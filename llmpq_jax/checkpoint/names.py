"""Our tensor names and Hugging Face's, family by family, and how to convert tensors.

Hugging Face stores matrices as [out, in]; ours are [in, out] (see `arch.tensors`). BLOOM
stores query, key and value in one matrix whose rows are [heads, 3, head width].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from re import Pattern, compile

import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import (
    TensorSpec,
    embedding_tensors,
    head_tensors,
    layer_tensors,
)

HEAD = "lm_head.weight"
_PART_NAMES = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTensor:
    """A tensor of the file that one of our tensors is read from.

    Attributes:
        name: Name of the tensor in the checkpoint.
        shape: Shape of the tensor in the checkpoint.
        is_transposed: True if its axes are in the opposite order of ours.
        fused_part: Index into BLOOM's fused tensor: 0 query, 1 key, 2 value; None for
            a tensor that is not fused.
        num_heads: Number of heads of a fused tensor.
    """

    name: str
    shape: tuple[int, ...]
    is_transposed: bool = False
    fused_part: int | None = None
    num_heads: int = 1

    @property
    def module(self) -> str:
        """Name without ".weight"; each part of a fused tensor has its own."""
        module = self.name.removesuffix(".weight")
        if self.fused_part is None:
            return module
        return f"{module}.{_PART_NAMES[self.fused_part]}"

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Returns our tensor, as a view of the file's where that is possible."""
        if self.fused_part is not None:
            split = array.reshape(self.num_heads, 3, -1, *array.shape[1:])
            array = split[:, self.fused_part].reshape(-1, *array.shape[1:])
        return array.T if self.is_transposed else array


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """One family's names.

    Attributes:
        prefixes: Prefixes of all names but the head's; the first is the usual one.
        layers: Name of the list of layers, before a layer's number.
        layer: File's names of a layer's modules, by our names.
        outer: File's names of the modules of embedding and head, by our names.
        harmless: Pattern of unneeded tensors of older versions of transformers.
    """

    prefixes: tuple[str, ...]
    layers: str
    layer: Mapping[str, str]
    outer: Mapping[str, str]
    harmless: Pattern[str]


_FUSED = {"attention.query": 0, "attention.key": 1, "attention.value": 2}
_GATED = _Names(
    prefixes=("model.", ""),
    layers="layers",
    layer={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
    outer={"tokens": "embed_tokens", "norm": "norm"},
    harmless=compile(r".*\.rotary_emb\.inv_freq"),
)
_OPT = _Names(
    prefixes=("model.decoder.", "decoder.", ""),
    layers="layers",
    layer={
        "attention_norm": "self_attn_layer_norm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "mlp.up": "fc1",
        "mlp.down": "fc2",
    },
    outer={
        "tokens": "embed_tokens",
        "positions": "embed_positions",
        "project_in": "project_in",
        "project_out": "project_out",
        "norm": "final_layer_norm",
    },
    harmless=compile(r"(model\.)?decoder\.version"),
)
_BLOOM = _Names(
    prefixes=("transformer.", ""),
    layers="h",
    layer={
        "attention_norm": "input_layernorm",
        "attention.query": "self_attention.query_key_value",
        "attention.key": "self_attention.query_key_value",
        "attention.value": "self_attention.query_key_value",
        "attention.output": "self_attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp.up": "mlp.dense_h_to_4h",
        "mlp.down": "mlp.dense_4h_to_h",
    },
    outer={"tokens": "word_embeddings"},
    harmless=compile(r".*\.(masked_bias|attn_mask)"),
)
_FAMILIES = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "opt": _OPT,
    "bloom": _BLOOM,
}

Sources = tuple[tuple[TensorSpec, FileTensor], ...]


class CheckpointNames:
    """Finds the tensors of one checkpoint that a model's tensors are read from.

    Attributes:
        architecture: Architecture of the model.
        prefix: Prefix of the checkpoint's names.
    """

    def __init__(self, architecture: Architecture, found: Iterable[str] = ()) -> None:
        """Chooses the prefix that the names in `found` have, by default the usual one."""
        self.architecture = architecture
        self._names = _FAMILIES[architecture.family]
        table = f"{self._names.outer['tokens']}.weight"
        present = set(found)
        self.prefix = self._find_prefix(table, present)
        # A file may hold both tables although the config ties them: transformers serves
        # what is stored then, and shares the only one otherwise.
        self._table, self._head = self.prefix + table, HEAD
        if architecture.ties_head and HEAD not in present:
            self._head = self._table
        elif architecture.ties_head and self._table not in present:
            self._table = HEAD

    @property
    def shares_table(self) -> bool:
        """Whether head and embedding are one tensor of the file."""
        return self._head == self._table

    def layer(self, layer: int) -> Sources:
        """Returns the tensors of a layer, each with its tensor of the file."""
        before = f"{self.prefix}{self._names.layers}.{layer}."
        return tuple(
            (tensor, self._file_tensor(tensor, before, self._names.layer))
            for tensor in layer_tensors(self.architecture)
        )

    def is_in_layer(self, file: FileTensor) -> bool:
        """Returns whether a tensor of the file belongs to a decoder layer."""
        return file.name.startswith(f"{self.prefix}{self._names.layers}.")

    def embedding(self) -> Sources:
        """Returns the tensors before the first layer, each with its tensor of the file."""
        outer = dict(self._names.outer)
        # BLOOM has a norm in the embedding and in the head; ours are both called "norm".
        outer.setdefault("norm", "word_embeddings_layernorm")
        return tuple(
            (
                tensor,
                FileTensor(name=self._table, shape=tensor.shape)
                if tensor.name == "tokens"
                else self._file_tensor(tensor, self.prefix, outer),
            )
            for tensor in embedding_tensors(self.architecture)
        )

    def head(self) -> Sources:
        """Returns the tensors after the last layer, each with its tensor of the file."""
        outer = dict(self._names.outer)
        outer.setdefault("norm", "ln_f")
        sources = []
        for tensor in head_tensors(self.architecture):
            if tensor.name == "vocabulary.weight":
                file = FileTensor(
                    name=self._head, shape=tensor.shape[::-1], is_transposed=True
                )
            else:
                file = self._file_tensor(tensor, self.prefix, outer)
            sources.append((tensor, file))
        return tuple(sources)

    def is_harmless(self, name: str) -> bool:
        """Returns whether a tensor that belongs to no module may be ignored."""
        return self._names.harmless.fullmatch(name) is not None

    def _find_prefix(self, table: str, present: set[str]) -> str:
        """Returns the prefix of the table of tokens, or without one that of layers."""
        prefixes = self._names.prefixes
        with_table = (prefix for prefix in prefixes if prefix + table in present)
        with_layers = (
            prefix
            for prefix in prefixes
            if any(
                name.startswith(f"{prefix}{self._names.layers}.0.") for name in present
            )
        )
        return next(with_table, next(with_layers, prefixes[0]))

    def _file_tensor(
        self, tensor: TensorSpec, before: str, modules: Mapping[str, str]
    ) -> FileTensor:
        module, _, kind = tensor.name.rpartition(".")
        if not module:  # the tables of tokens and positions
            name = f"{before}{modules[tensor.name]}.weight"
            return FileTensor(name=name, shape=tensor.shape)
        name = f"{before}{modules[module]}.{kind}"
        part = _FUSED.get(module) if self._names is _BLOOM else None
        shape = tensor.shape[::-1]
        if part is None:
            return FileTensor(name=name, shape=shape, is_transposed=tensor.is_matrix)
        return FileTensor(
            name=name,
            shape=(3 * shape[0], *shape[1:]),
            is_transposed=tensor.is_matrix,
            fused_part=part,
            num_heads=self.architecture.num_heads,
        )


def all_sources(names: CheckpointNames) -> Sources:
    """Returns all tensors of the model, each with its tensor of the file."""
    return (
        *names.embedding(),
        *(
            source
            for layer in range(names.architecture.num_layers)
            for source in names.layer(layer)
        ),
        *names.head(),
    )
