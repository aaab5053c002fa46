"""GPTQ, as AutoGPTQ and GPTQModel write it; docs/checkpoints.md describes its tensors.

Every word of zero points in format "gptq" was written minus the word of p ones, and is
read plus it, whatever was borrowed between them. Symmetric files have z = 2^(bits−1)
everywhere.
"""

from __future__ import annotations

import re
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
from llmpq_jax.checkpoint.formats.quantized_matrix import LowBits, QuantizedMatrix
from llmpq_jax.checkpoint.formats.words import centred, unpack_columns, unpack_rows

ZEROS_LESS = {"gptq": 1, "gptq_v2": 0}
_DEFAULTS = {"checkpoint_format": "gptq", "dynamic": None}
# How it was made, and what the tensors themselves show: which modules are quantised, and
# the order of their groups.
_HARMLESS = frozenset(
    [
        "quant_method",
        "act_group_aware",
        "batch_size",
        "block_name_to_quantize",
        "cache_block_outputs",
        "damp_auto_increment",
        "damp_percent",
        "dataset",
        "desc_act",
        "disable_exllama",
        "exllama_config",
        "hyb_act",
        "lm_head",
        "max_input_length",
        "meta",
        "model_file_base_name",
        "model_name_or_path",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize",
        "mse",
        "pad_token_id",
        "quantizer",
        "static_groups",
        "tokenizer",
        "true_sequential",
        "use_cuda_fp16",
        "use_exllama",
    ]
)
_KNOWN = COMMON_IGNORED_KEYS | _HARMLESS | {"bits", "group_size", "sym", *_DEFAULTS}
# GPTQModel's adapters and rotations change what is multiplied.
_FIXED_VALUES: Mapping[str, object] = {
    **COMMON_FIXED_VALUES,
    "adapter": None,
    "is_marlin_format": False,
    "method": "gptq",
    "pack_dtype": "int32",
    "rotation": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How some modules are quantised.

    Attributes:
        bits: Bits of an integer.
        group_size: Number of inputs that share a scale; −1 for all of them.
        is_symmetric: True if the config says that zero points are half the range.
    """

    bits: LowBits
    group_size: int
    is_symmetric: bool


Rules = tuple[tuple[re.Pattern[str], Scheme | None], ...]


@dataclass(frozen=True, kw_only=True)
class Gptq(Format):
    """How one checkpoint's weights are quantised.

    Attributes:
        scheme: Scheme of modules that no rule matches.
        rules: Patterns of module names, from their start, with another scheme; the
            first that matches counts. One without a scheme is of unquantised modules.
        zeros_less: Number that was subtracted from the stored zero points.
    """

    scheme: Scheme
    rules: Rules = ()
    zeros_less: int
    name = "gptq"
    marker = "qweight"

    def bits(self, linear: Linear) -> LowBits:
        """See `Format`."""
        return self._scheme_of(linear).bits

    def file_tensors(
        self, linear: Linear, found: Container[str]
    ) -> tuple[FormatTensor, ...]:
        """See `Format`; g_idx may be missing."""
        scheme = self._scheme_of(linear)
        per_word = 32 // scheme.bits
        c, f = linear.num_contracted, linear.num_features
        if c % per_word or f % per_word:
            linear.refuse(
                f"has shape {[c, f]}: expected multiples of {per_word}, the integers of a word; "
                "check that config.json is of these weights"
            )
        g = linear.groups_of(scheme.group_size)
        parts = (
            FormatTensor("qweight", (c // per_word, f), ("int32",)),
            FormatTensor("qzeros", (g, f // per_word), ("int32",)),
            FormatTensor("scales", (g, f), FLOATS),
        )
        if f"{linear.module}.g_idx" in found:
            parts += (FormatTensor("g_idx", (c,), ("int32",)),)
        return parts

    def matrix(
        self, linear: Linear, tensors: Mapping[str, np.ndarray]
    ) -> QuantizedMatrix:
        """See `Format`."""
        scheme = self._scheme_of(linear)
        bits = scheme.bits
        zero_point_GF = _zero_points(tensors["qzeros"], bits, less=self.zeros_less)
        if scheme.is_symmetric and zero_point_GF.any():
            linear.refuse(
                'has zero points other than half the range, and config.json "sym": true: '
                f"expected them to agree; {self._remedy(tensors['qzeros'], bits)}"
            )
        return our_layout(
            linear,
            centred(unpack_rows(tensors["qweight"], bits), bits),
            tensors["scales"],
            bits=bits,
            zero_point_GF=zero_point_GF,
            group_of_C=tensors.get("g_idx"),
        )

    def _remedy(self, words_GW: np.ndarray, bits: LowBits) -> str:
        """Returns what to do about zero points of a symmetric file that are not."""
        for name, less in ZEROS_LESS.items():
            if not _zero_points(words_GW, bits, less=less).any():
                return f'write "checkpoint_format": "{name}", which these are of'
        return "fetch both again"

    def _scheme_of(self, linear: Linear) -> Scheme:
        for pattern, scheme in self.rules:
            if pattern.match(linear.module):
                if scheme is None:
                    linear.refuse(
                        "is quantised, but a rule under `dynamic` leaves it out: "
                        "expected config.json and weights to agree; fetch both again"
                    )
                return scheme
        return self.scheme


def read_gptq(config: Config) -> Gptq:
    """Reads the description, refusing by name what is not implemented."""
    config = replace(config, defaults=_DEFAULTS, values=_renamed(config.values))
    config.check_keys(_KNOWN, _FIXED_VALUES, what="gptq")
    scheme = scheme_in(config)
    return Gptq(
        scheme=scheme,
        rules=_rules(config, scheme),
        zeros_less=config.choice("checkpoint_format", ZEROS_LESS),
    )


def scheme_in(config: Config, otherwise: Scheme | None = None) -> Scheme:
    """Reads bits, group size and symmetry; absent ones are those of another scheme."""
    if otherwise is not None:
        defaults = {
            "bits": otherwise.bits,
            "group_size": otherwise.group_size,
            "sym": otherwise.is_symmetric,
        }
        config = replace(config, defaults=defaults)
    return Scheme(
        bits=bits_in(config),
        group_size=group_size_in(config),
        is_symmetric=config.values.get("sym", config.defaults.get("sym")) is True,
    )


def bits_in(config: Config, key: str = "bits") -> LowBits:
    """Reads a number of bits, 4 or 8."""
    value = config.integer(key)
    if value not in (4, 8):
        config.not_implemented(key, value, "4 or 8")
    return value


def group_size_in(config: Config) -> int:
    """Reads a number of rows, or −1 for a group of all rows."""
    value = config.get("group_size")
    return -1 if value == -1 else config.integer("group_size")


def _renamed(values: Mapping[str, object]) -> dict[str, object]:
    """Renames `format` of newer files to its older name."""
    return {
        "checkpoint_format" if key == "format" else key: value
        for key, value in values.items()
    }


def _rules(config: Config, scheme: Scheme) -> Rules:
    found = config.get("dynamic")
    if found is None or found is False:
        return ()
    if not isinstance(found, dict):
        config.refuse("dynamic", found, "an object of patterns and what holds for them")
    rules: list[tuple[re.Pattern[str], Scheme | None]] = []
    for text, changes in found.items():
        key = f"dynamic.{text}"
        if not isinstance(changes, dict):
            config.refuse(key, changes, "an object")
        try:
            pattern = re.compile(text.removeprefix("-:").removeprefix("+:"))
        except re.error:
            config.refuse(key, text, "a pattern of module names")
        if text.startswith("-:"):
            rules.append((pattern, None))
            continue
        inner = Config(
            path=config.path, values=changes, inside=f"{config.inside}{key}."
        )
        inner.check_keys(_KNOWN, _FIXED_VALUES, what="gptq")
        rules.append((pattern, scheme_in(inner, scheme)))
    return tuple(rules)


def _zero_points(words_GW: np.ndarray, bits: LowBits, *, less: int) -> np.ndarray:
    """Unpacks zero points, from which a number was subtracted, less half the range."""
    ones = sum(1 << shift for shift in range(0, 32, bits))
    zeros = words_GW.view(np.uint32) + np.uint32(less * ones)
    return centred(unpack_columns(zeros.view(np.int32), bits), bits)
