"""AutoRound's own format, where it packs integers as GPTQ or AWQ files have them.

`packing_format` names the packing, `extra_config` the modules with another scheme by name
or by pattern; docs/checkpoints.md describes the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from llmpq_jax.arch.families.config import Config
from llmpq_jax.checkpoint.formats._format import (
    COMMON_FIXED_VALUES,
    COMMON_IGNORED_KEYS,
    Format,
)
from llmpq_jax.checkpoint.formats.awq import Awq
from llmpq_jax.checkpoint.formats.gptq import (
    ZEROS_LESS,
    Gptq,
    Rules,
    Scheme,
    scheme_in,
)

_DEFAULTS = {"packing_format": None, "extra_config": None, "sym": True}
_HARMLESS = frozenset(["quant_method", "block_name_to_quantize", "lm_head"])
_KNOWN = COMMON_IGNORED_KEYS | _HARMLESS | {"bits", "group_size", *_DEFAULTS}
_OF_A_MODULE = frozenset(["bits", "group_size", "sym", "scale_dtype"])
_PACKINGS: Mapping[str, str] = {
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptq": "gptq",
    "auto_round:auto_awq": "awq",
    "auto_round:awq": "awq",
}
_PLAIN_BITS = 16


def read_auto_round(config: Config) -> Format:
    """Reads the description, refusing by name what is not implemented."""
    config = replace(config, defaults=_DEFAULTS)
    config.check_keys(_KNOWN, COMMON_FIXED_VALUES, what="auto-round")
    packing = config.choice("packing_format", _PACKINGS)
    scheme = scheme_in(config)
    group_size = scheme.group_size
    rules = _rules(config, scheme)
    if packing == "gptq":
        return Gptq(scheme=scheme, rules=rules, zeros_less=ZEROS_LESS["gptq"])
    for _, other in ((None, scheme), *rules):
        if other is not None and (other.bits, other.group_size) != (4, group_size):
            found = f"{other.bits} bits by {other.group_size}"
            config.not_implemented(
                "extra_config", found, f"4 bits by {group_size} in AWQ's packing"
            )
    return Awq(group_size=group_size, is_symmetric=scheme.is_symmetric)


def _rules(config: Config, scheme: Scheme) -> Rules:
    found = config.get("extra_config")
    if found is None:
        return ()
    if not isinstance(found, dict):
        config.refuse("extra_config", found, "an object of modules and their schemes")
    rules: list[tuple[re.Pattern[str], Scheme | None]] = []
    for name, changes in found.items():
        key = f"extra_config.{name}"
        if not isinstance(changes, dict):
            config.refuse(key, changes, "an object")
        try:
            pattern = re.compile(rf"(?:{name})\Z")
        except re.error:
            config.refuse(key, name, "the name of a module or a pattern of names")
        inner = Config(
            path=config.path, values=changes, inside=f"{config.inside}{key}."
        )
        bits = changes.get("bits", scheme.bits)
        if isinstance(bits, int) and bits >= _PLAIN_BITS:
            rules.append((pattern, None))
            continue
        inner.check_keys(_OF_A_MODULE, COMMON_FIXED_VALUES, what="auto-round")
        rules.append((pattern, scheme_in(inner, scheme)))
    return tuple(rules)
