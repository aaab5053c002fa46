"""Reads config.json of a Hugging Face checkpoint as an `Architecture`.

Every family has a table: keys that are used, with Hugging Face's defaults; keys that do
not change what is computed; and keys for which only one value is implemented. Tests hold
the tables against the classes of transformers and what its models read, so a key in no
table cannot change what transformers computes: it is ignored, and logged.
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
