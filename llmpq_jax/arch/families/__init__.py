"""Reads config.json of a Hugging Face checkpoint as an `Architecture`.

Every family has a table: keys that are used, with Hugging Face's defaults; keys that do
not change what is computed; and keys for which only one value is implemented. A key in no
table is refused unless it is null, false or empty, so that no key is ignored by accident.
"""

from llmpq_jax.arch.families._read_config import (
    FAMILIES,
    QUANTIZATION,
    read_architecture,
    read_json,
    read_quantization,
)

__all__ = [
    "FAMILIES",
    "QUANTIZATION",
    "read_architecture",
    "read_json",
    "read_quantization",
]
