"""AWQ, as AutoAWQ writes it in its layout "gemm"; docs/checkpoints.md describes it.

A word's features are in an order in which a GPU unpacks them in pairs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.arch.families.config import Config
from llmpq_jax.checkpoint.formats._format import (
    COMMON_FIXED_VALUES,
    COMMON_IGNORED_KEYS,
    FLOATS,
    Format,
    FormatTensor,
    Linear,
    our_layout,
)
from llmpq_jax.checkpoint.formats.gptq import group_size_in
from llmpq_jax.checkpoint.formats.quantized_matrix import LowBits, QuantizedMatrix
from llmpq_jax.checkpoint.formats.words import centred, unpack_columns

_FEATURE_AT = (0, 2, 4, 6, 1, 3, 5, 7)
_PER_WORD = 8
_DEFAULTS = {"version": "gemm", "zero_point": True}
_ALIASES = {"w_bit": "bits", "q_group_size": "group_size"}
# How it was made, and what another engine does with it; the tensors themselves show which
# modules are quantised.
_HARMLESS = frozenset(
    [
        "quant_method",
        "desc_act",
        "do_fuse",
        "exllama_config",
        "fuse_max_seq_len",
        "lm_head",
        "meta",
        "modules_to_fuse",
        "pack_method",
        "sym",
    ]
)
_FIXED_VALUES: Mapping[str, object] = {
    **COMMON_FIXED_VALUES,
    "adapter": None,
    "format": "gemm",
    "method": "awq",
    "pack_dtype": "int32",
    "rotation": None,
}


@dataclass(frozen=True, kw_only=True)
class Awq(Format):
    """How one checkpoint's weights are quantised.

    Attributes:
        group_size: Number of inputs that share a scale; −1 for all of them.
        is_symmetric: True if the config says that zero points are half the range.
    """

    group_size: int
    is_symmetric: bool
    name = "awq"
    marker = "qweight"

    def bits(self, linear: Linear) -> LowBits:
        """See `Format`; always 4."""
        del linear
        return 4

    def file_tensors(
        self, linear: Linear, found: Container[str]
    ) -> tuple[FormatTensor, ...]:
        """See `Format`."""
        del found
        c, f = linear.num_contracted, linear.num_features
        if f % _PER_WORD:
            linear.refuse(
                f"has {f} features: expected a multiple of {_PER_WORD}, the integers of a word; "
                "check that config.json is of these weights"
            )
        g = linear.groups_of(self.group_size)
        return (
            FormatTensor("qweight", (c, f // _PER_WORD), ("int32",)),
            FormatTensor("qzeros", (g, f // _PER_WORD), ("int32",)),
            FormatTensor("scales", (g, f), FLOATS),
        )

    def matrix(
        self, linear: Linear, tensors: Mapping[str, np.ndarray]
    ) -> QuantizedMatrix:
        """See `Format`."""
        zero_point_GF = _in_order(tensors["qzeros"])
        if self.is_symmetric and zero_point_GF.any():
            linear.refuse(
                'has zero points other than 8, and config.json "zero_point": false: '
                "expected them to agree; fetch both again"
            )
        return our_layout(
            linear,
            _in_order(tensors["qweight"]),
            tensors["scales"],
            bits=4,
            zero_point_GF=zero_point_GF,
            group_of_C=None,
        )


def read_awq(config: Config) -> Awq:
    """Reads the description, refusing by name what is not implemented."""
    values = {_ALIASES.get(key, key): value for key, value in config.values.items()}
    config = replace(config, values=values, defaults=_DEFAULTS)
    known = COMMON_IGNORED_KEYS | _HARMLESS | {"bits", "group_size", *_DEFAULTS}
    config.check_keys(known, _FIXED_VALUES, what="awq")
    if config.integer("bits") != 4:
        config.not_implemented("bits", config.get("bits"), "4")
    config.choice("version", {"gemm": None, "GEMM": None})
    return Awq(
        group_size=group_size_in(config),
        is_symmetric=not config.flag("zero_point"),
    )


def _in_order(words: np.ndarray) -> np.ndarray:
    """Unpacks words and puts their eight features into order."""
    mixed = unpack_columns(words, 4)
    rows = mixed.reshape(len(mixed), -1, _PER_WORD)
    values = np.empty_like(rows)
    values[:, :, _FEATURE_AT] = rows
    return centred(values.reshape(mixed.shape), 4)
