"""Reads config.json as an architecture, by the table of its family.

Newer files also describe quantised weights, under quantization_config. Before, AutoGPTQ
wrote quantize_config.json and AutoAWQ wrote quant_config.json, and the file name implies
the method. `llmpq_jax.checkpoint.formats` interprets the description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families._family import Family
from llmpq_jax.arch.families._gated import LLAMA, MISTRAL, QWEN2, QWEN3
from llmpq_jax.arch.families._layer_norm import BLOOM, OPT
from llmpq_jax.arch.families.config import Config
from llmpq_jax.errors import SpecError, UnsupportedModelError
from llmpq_jax.files import reading

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, OPT, BLOOM)
}

QUANTIZATION = "quantization_config"
_OLDER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def read_architecture(path: Path) -> Architecture:
    """Reads the architecture of a checkpoint, from its folder or its config.json.

    Raises:
        SpecError: If the file is missing or is not JSON, or a value has a wrong type.
        UnsupportedModelError: If the model needs something that is not implemented.
    """
    path = path / "config.json" if path.is_dir() else path
    values = read_json(path)
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        msg = f"config {path}: model_type: found {model_type!r}, expected one of {', '.join(FAMILIES)}"
        raise SpecError(msg)
    if model_type not in FAMILIES:
        msg = f"config {path}: model_type is {model_type!r}: implemented are {', '.join(FAMILIES)}; choose a checkpoint of one of these families"
        raise UnsupportedModelError(msg)
    family = FAMILIES[model_type]
    config = Config(
        path=path,
        values=_with_canonical_names(path, values, family),
        defaults=family.defaults,
    )
    config.refuse_unknown_keys(
        family.known_keys, family.all_fixed_values, what=model_type
    )
    try:
        return family.build(config)
    except ValueError as reason:
        msg = f"config {path}: {reason}"
        raise SpecError(msg) from reason


def read_quantization(folder: Path) -> Config | None:
    """Reads the description of a checkpoint's quantised weights; None if it has none.

    Raises:
        SpecError: If a file is not JSON, or the description is not an object.
    """
    path = folder / "config.json"
    if path.is_file():
        found = read_json(path).get(QUANTIZATION)
        if found is not None:
            if not isinstance(found, dict):
                msg = f"config {path}: {QUANTIZATION}: found {found!r}, expected an object"
                raise SpecError(msg)
            return Config(path=path, values=found, inside=f"{QUANTIZATION}.")
    for name, method in _OLDER_FILES.items():
        path = folder / name
        if path.is_file():
            return Config(path=path, values={"quant_method": method, **read_json(path)})
    return None


def read_json(path: Path) -> dict[str, object]:
    """Reads a file that holds one JSON object.

    Raises:
        SpecError: If the file is missing or does not hold a JSON object.
    """
    expected = "the config.json of a Hugging Face checkpoint, in JSON"
    with reading(path, "config", expected, SpecError):
        text = path.read_text(encoding="utf-8")

    def refuse_constant(name: str) -> NoReturn:
        msg = (
            f"config {path}: holds {name}, which is not JSON: expected a finite number"
        )
        raise SpecError(msg)

    try:
        values = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as reason:
        msg = f"config {path}: is not JSON: {reason}"
        raise SpecError(msg) from reason
    if not isinstance(values, dict):
        msg = f"config {path}: found a {type(values).__name__}, expected a JSON object"
        raise SpecError(msg)
    return values


def _with_canonical_names(
    path: Path, values: dict[str, object], family: Family
) -> dict[str, object]:
    canonical: dict[str, object] = {}
    for key, value in values.items():
        name = family.aliases.get(key, key)
        if name in canonical and canonical[name] != value:
            msg = f"config {path}: {name} is {canonical[name]!r} and {value!r} in two spellings: expected the same"
            raise SpecError(msg)
        canonical[name] = value
    return canonical
