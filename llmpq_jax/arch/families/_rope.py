"""Rotary position embeddings in config.json, in the old spelling and in the new one.

Old: `rope_theta` and `rope_scaling`, the latter with "type" or "rope_type".
New: `rope_parameters` with both inside.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmpq_jax.arch.architecture import Rope
from llmpq_jax.arch.families.config import Config
from llmpq_jax.errors import SpecError

ROPE_DEFAULTS: Mapping[str, object] = {
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
ROPE_FIXED_VALUES: Mapping[str, object] = {"partial_rotary_factor": 1.0}

_DEFAULT = frozenset({"type", "rope_type", "rope_theta"})
_LLAMA3 = {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
_KEYS = {
    "default": _DEFAULT,
    "linear": _DEFAULT | {"factor"},
    "llama3": _DEFAULT | {"factor"} | _LLAMA3,
}


def read_rope(config: Config) -> Rope:
    """Reads the rotary position embedding of a config.

    Raises:
        UnsupportedModelError: If its type is not implemented.
        SpecError: If a value is missing, has a wrong type, or contradicts another.
    """
    inner = _inner(config)
    for name, value in inner.values.items():
        if isinstance(value, dict):
            inner.not_implemented(name, value, "one rotary embedding for all layers")
    kind = inner.choice("rope_type", {name: name for name in _KEYS})
    _require_agreement(config, inner, kind)
    inner.check_keys(
        _KEYS[kind], ROPE_FIXED_VALUES, what=f"the rotary embedding {kind!r}"
    )
    theta = inner.number("rope_theta")
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, scaling="linear", factor=inner.number("factor"))
    rope = Rope(
        theta=theta,
        scaling="llama3",
        factor=inner.number("factor"),
        low_frequency_factor=inner.number("low_freq_factor"),
        high_frequency_factor=inner.number("high_freq_factor"),
        original_positions=inner.integer("original_max_position_embeddings"),
    )
    if rope.high_frequency_factor <= rope.low_frequency_factor:
        expected = f"more than low_freq_factor, {rope.low_frequency_factor}"
        inner.refuse("high_freq_factor", rope.high_frequency_factor, expected)
    return rope


def _inner(config: Config) -> Config:
    """Returns the object that holds the parameters, in either spelling."""
    found = {
        key: value
        for key in ("rope_parameters", "rope_scaling")
        if (value := config.get(key)) is not None and value != {}
    }
    if len(found) == 2 and found["rope_parameters"] != found["rope_scaling"]:
        expected = "one of them, or the same in both"
        config.refuse("rope_parameters and rope_scaling", found, expected)
    key, values = next(iter(found.items()), ("rope_parameters", {}))
    if not isinstance(values, dict):
        config.refuse(key, values, "an object with rope_type")
    return Config(
        path=config.path,
        values=values,
        defaults={
            "rope_type": values.get("type", "default"),
            "rope_theta": config.get("rope_theta"),
            "original_max_position_embeddings": config.get("max_position_embeddings"),
        },
        inside=f"{key}.",
    )


def _require_agreement(config: Config, inner: Config, kind: str) -> None:
    spelled_twice = (
        ("type", inner.values.get("type"), kind),
        ("rope_theta", config.values.get("rope_theta"), inner.get("rope_theta")),
    )
    for key, found, used in spelled_twice:
        if found is not None and found != used:
            msg = f"config {config.path}: {key} is {found!r} and {used!r} in two places: expected the same"
            raise SpecError(msg)
