"""compressed-tensors, as llm-compressor writes it: integers of 4 or 8 bits.

docs/checkpoints.md describes its tensors. A scale is [F, 1] of strategy "channel" and
[1] of "tensor". In packed zero points consecutive features share a word, in packed
weights consecutive inputs; a last word may not be full.

A module has the bits and groups of the group of config.json whose targets match it, in
the order of the compressed-tensors library: first targets that name the module, then
patterns ("re:…", from the name's start) by their text, then the class Linear. Of groups
with the same target the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llmpq_jax.arch.families.config import Config
from llmpq_jax.checkpoint.formats._format import (
    FLOATS,
    Format,
    FormatTensor,
    Linear,
    our_layout,
)
from llmpq_jax.checkpoint.formats.gptq import bits_in
from llmpq_jax.checkpoint.formats.quantized_matrix import LowBits, QuantizedMatrix
from llmpq_jax.checkpoint.formats.words import centred, unpack_columns, unpack_rows

Storage = Literal["pack-quantized", "int-quantized"]
NAME = "compressed-tensors"
PACKED: Storage = "pack-quantized"
_STORAGES: Mapping[str, Storage] = {
    "pack-quantized": "pack-quantized",
    "int-quantized": "int-quantized",
}
# "static" and "dynamic" are the newer names. Ordered by "weight", groups stay in order.
_HAS_ORDER = {"weight": False, "static": False, "group": True, "dynamic": True}
_STRATEGIES = {"group": "group", "channel": "channel", "tensor": "tensor"}
_HARMLESS = frozenset(
    [
        "quant_method",
        "config_groups",
        "format",
        "global_compression_ratio",
        "ignore",  # the tensors show which modules are quantised
        "provider",
        "quantization_status",
        "sparsity_config",
        "version",
    ]
)
_FIXED_VALUES: Mapping[str, object] = {
    "kv_cache_scheme": None,
    "transform_config": None,
}
_HARMLESS_OF_WEIGHTS = frozenset(
    ["observer", "observer_kwargs", "scale_dtype", "zp_dtype", "group_size"]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How the modules of one group are quantised.

    Attributes:
        targets: Names of modules, patterns after "re:", or the class Linear.
        bits: Bits of an integer.
        group_size: Number of inputs that share a scale; −1 for all of them.
        has_one_scale: True if the whole matrix has one scale.
        is_symmetric: True if there are no zero points.
        has_order: True if weight_g_idx gives the group of each input.
        storage: Format in which the integers are stored.
    """

    targets: tuple[str, ...]
    bits: LowBits
    group_size: int
    has_one_scale: bool = False
    is_symmetric: bool = True
    has_order: bool = False
    storage: Storage = PACKED


@dataclass(frozen=True, kw_only=True)
class CompressedTensors(Format):
    """How one checkpoint's weights are quantised.

    Attributes:
        schemes: Schemes of the groups of config.json, in their order.
    """

    schemes: tuple[Scheme, ...]
    name = NAME
    marker = "weight_scale"

    def bits(self, linear: Linear) -> LowBits:
        """See `Format`."""
        return self._scheme_of(linear).bits

    def file_tensors(
        self, linear: Linear, found: Container[str]
    ) -> tuple[FormatTensor, ...]:
        """See `Format`."""
        del found
        scheme = self._scheme_of(linear)
        c, f = linear.num_contracted, linear.num_features
        g = linear.groups_of(scheme.group_size)
        per_word = 32 // scheme.bits
        scale_shape = (1,) if scheme.has_one_scale else (f, g)
        zeros = FormatTensor("weight_zero_point", scale_shape, ("int8",))
        if scheme.storage == PACKED:
            words = (f, -(-c // per_word))
            parts = [
                FormatTensor("weight_packed", words, ("int32",)),
                FormatTensor("weight_shape", (2,), ("int64", "int32")),
            ]
            if not scheme.has_one_scale:
                zeros = replace(zeros, shape=(-(-f // per_word), g), dtypes=("int32",))
        else:
            parts = [FormatTensor("weight", (f, c), ("int8",))]
        parts.append(FormatTensor("weight_scale", scale_shape, FLOATS))
        if not scheme.is_symmetric:
            parts.append(zeros)
        if scheme.has_order:
            parts.append(FormatTensor("weight_g_idx", (c,), ("int32",)))
        return tuple(parts)

    def matrix(
        self, linear: Linear, tensors: Mapping[str, np.ndarray]
    ) -> QuantizedMatrix:
        """See `Format`."""
        scheme = self._scheme_of(linear)
        c, f = linear.num_contracted, linear.num_features
        if scheme.storage == PACKED:
            stored = tensors["weight_shape"].tolist()
            if stored != [f, c]:
                linear.refuse(
                    f"has weight_shape {stored}: expected {[f, c]}; check that config.json "
                    "is of these weights"
                )
            packed = unpack_columns(tensors["weight_packed"], scheme.bits)
            values_FC = centred(packed[:, :c], scheme.bits)
        else:
            values_FC = tensors["weight"]
            largest = 2 ** (scheme.bits - 1)
            if values_FC.min() < -largest or values_FC.max() >= largest:
                linear.refuse(
                    f"has integers beyond {scheme.bits} bits: expected −{largest} to "
                    f"{largest - 1}; fetch the file again"
                )
        scale_FG = tensors["weight_scale"]
        zeros_FG = self._zeros(scheme, tensors, f)
        if scheme.has_one_scale:
            scale_FG, zeros_FG = (
                np.broadcast_to(each.reshape(1, 1), (f, 1))
                for each in (scale_FG, zeros_FG)
            )
        return our_layout(
            linear,
            values_FC.T,
            scale_FG.T,
            bits=scheme.bits,
            zero_point_GF=zeros_FG.T,
            group_of_C=tensors.get("weight_g_idx"),
        )

    def _zeros(
        self, scheme: Scheme, tensors: Mapping[str, np.ndarray], num_features: int
    ) -> np.ndarray:
        if scheme.is_symmetric:
            return np.zeros(tensors["weight_scale"].shape, np.int8)
        stored = tensors["weight_zero_point"]
        if stored.dtype == np.int8:
            return stored
        return centred(unpack_rows(stored, scheme.bits)[:num_features], scheme.bits)

    def _scheme_of(self, linear: Linear) -> Scheme:
        matches = {
            (rank, target): scheme
            for scheme in self.schemes
            for target in scheme.targets
            if (rank := _rank(target, linear.module)) is not None
        }
        if not matches:
            linear.refuse(
                "is quantised, but no group under config_groups has it among its "
                "targets: expected config.json and weights to agree; fetch both again"
            )
        return matches[min(matches)]


def _rank(target: str, module: str) -> int | None:
    """Returns the rank of a target that names, matches or has the class of a module."""
    if target == module:
        return 0
    text = target.removeprefix("re:")
    if text != target and re.match(text, module):
        return 1
    return 2 if target == "Linear" else None


def read_compressed_tensors(config: Config) -> CompressedTensors:
    """Reads the description, refusing by name what is not implemented."""
    config = replace(config, defaults={"format": None, "sparsity_config": None})
    config.check_keys(_HARMLESS, _FIXED_VALUES, what=NAME)
    status = config.values.get("quantization_status")
    if status not in (None, "compressed"):
        config.not_implemented("quantization_status", status, "'compressed'")
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        config.not_implemented(
            "sparsity_config.format", sparsity["format"], "'dense' or null"
        )
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        config.refuse("config_groups", groups, "an object of groups")
    return CompressedTensors(
        schemes=tuple(
            _read_group(_inner(config, f"config_groups.{name}", group), config)
            for name, group in groups.items()
        )
    )


def _read_group(group: Config, config: Config) -> Scheme:
    # Quantised activations are refused: products are not computed with them.
    group.check_keys(
        ("targets", "weights", "format"),
        {"input_activations": None, "output_activations": None},
        what=NAME,
    )
    storage = group if group.values.get("format") is not None else config
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        group.refuse("targets", targets, "a list of names")
    for target in targets:
        try:
            re.compile(target.removeprefix("re:"))
        except re.error:
            group.refuse("targets", target, "a pattern behind re:")
    weights = replace(
        _inner(group, "weights", group.get("weights")),
        defaults={"type": "int", "symmetric": True, "strategy": None, "actorder": None},
    )
    weights.check_keys(
        _HARMLESS_OF_WEIGHTS | frozenset(weights.defaults) | {"num_bits"},
        {"block_structure": None, "dynamic": False},
        what=NAME,
    )
    weights.choice("type", {"int": None})
    strategy = _strategy(weights)
    actorder = weights.get("actorder")
    return Scheme(
        targets=tuple(targets),
        bits=bits_in(weights, "num_bits"),
        group_size=weights.integer("group_size") if strategy == "group" else -1,
        has_one_scale=strategy == "tensor",
        is_symmetric=weights.flag("symmetric"),
        has_order=actorder not in (None, False)
        and weights.choice("actorder", _HAS_ORDER),
        storage=storage.choice("format", _STORAGES),
    )


def _strategy(weights: Config) -> str:
    """Reads the strategy; without one it follows from group_size."""
    if weights.get("strategy") is not None:
        return weights.choice("strategy", _STRATEGIES)
    size = weights.values.get("group_size")
    if size is None:
        return "tensor"
    return "channel" if size == -1 else "group"


def _inner(config: Config, key: str, value: object) -> Config:
    if not isinstance(value, dict):
        config.refuse(key, value, "an object")
    return Config(path=config.path, values=value, inside=f"{config.inside}{key}.")
