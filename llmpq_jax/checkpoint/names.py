"""Our tensor names and Hugging Face's, family by family, and what lies between them.

Hugging Face keeps matrices as [out, in]; ours are [in, out] (see spec.tensors). BLOOM
keeps query, key and value in one matrix whose rows are [heads, 3, head width].
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
    """Where one of our tensors comes from.

    Attributes:
        name: In the checkpoint.
        shape: There.
        is_transposed: Its axes are the other way round.
        fused_part: Of BLOOM's fused tensor: 0 query, 1 key, 2 value.
        num_heads: Of the fused tensor.
    """

    name: str
    shape: tuple[int, ...]
    is_transposed: bool = False
    fused_part: int | None = None
    num_heads: int = 1

    @property
    def module(self) -> str:
        """Its name without ".weight"; a part of a fused tensor has one of its own."""
        module = self.name.removesuffix(".weight")
        if self.fused_part is None:
            return module
        return f"{module}.{_PART_NAMES[self.fused_part]}"

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Turns what the file holds into our tensor, without copying if it can."""
        if self.fused_part is not None:
            split = array.reshape(self.num_heads, 3, -1, *array.shape[1:])
            array = split[:, self.fused_part].reshape(-1, *array.shape[1:])
        return array.T if self.is_transposed else array


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """One family's names.

    Attributes:
        prefixes: Before all names but the head's; the first is the usual one.
        layers: Before a layer's number.
        layer: Of a layer's modules.
        ends: Of the embedding's and the head's.
        harmless: Tensors that older versions of transformers wrote and nobody needs.
    """

    prefixes: tuple[str, ...]
    layers: str
    layer: Mapping[str, str]
    ends: Mapping[str, str]
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
    ends={"tokens": "embed_tokens", "norm": "norm"},
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
    ends={
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
    ends={"tokens": "word_embeddings"},
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
    """The names of one model's tensors in one checkpoint."""

    def __init__(self, architecture: Architecture, found: Iterable[str] = ()) -> None:
        """Chooses the prefix that `found` uses; the usual one where it uses none."""
        self.architecture = architecture
        self._names = _FAMILIES[architecture.family]
        table = f"{self._names.ends['tokens']}.weight"
        present = set(found)
        self.prefix = next(
            (prefix for prefix in self._names.prefixes if prefix + table in present),
            self._names.prefixes[0],
        )

    def layer(self, layer: int) -> Sources:
        """Says where each tensor of a layer comes from."""
        before = f"{self.prefix}{self._names.layers}.{layer}."
        return tuple(
            (tensor, self._file_tensor(tensor, before, self._names.layer))
            for tensor in layer_tensors(self.architecture)
        )

    def embedding(self) -> Sources:
        """Says where each tensor before the layers comes from."""
        ends = dict(self._names.ends)
        # BLOOM has a norm at either end; ours are both called "norm".
        ends.setdefault("norm", "word_embeddings_layernorm")
        return tuple(
            (tensor, self._file_tensor(tensor, self.prefix, ends))
            for tensor in embedding_tensors(self.architecture)
        )

    def head(self) -> Sources:
        """Says where each tensor after the layers comes from."""
        ends = dict(self._names.ends)
        ends.setdefault("norm", "ln_f")
        sources = []
        for tensor in head_tensors(self.architecture):
            if tensor.name == "vocabulary.weight":
                table = f"{self.prefix}{ends['tokens']}.weight"
                name = table if self.architecture.ties_head else HEAD
                file = FileTensor(
                    name=name, shape=tensor.shape[::-1], is_transposed=True
                )
            else:
                file = self._file_tensor(tensor, self.prefix, ends)
            sources.append((tensor, file))
        return tuple(sources)

    def is_harmless(self, name: str) -> bool:
        """Tells whether an unclaimed tensor may be left unread."""
        is_copy = name == HEAD and self.architecture.ties_head
        return is_copy or self._names.harmless.fullmatch(name) is not None

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


def all_files(names: CheckpointNames) -> dict[str, FileTensor]:
    """Returns every tensor a plain checkpoint must hold, by its name there."""
    return {file.name: file for _, file in all_sources(names)}


def all_sources(names: CheckpointNames) -> Sources:
    """Says where each tensor of the model comes from."""
    return (
        *names.embedding(),
        *(
            source
            for layer in range(names.architecture.num_layers)
            for source in names.layer(layer)
        ),
        *names.head(),
    )
