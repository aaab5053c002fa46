"""config.json of a Hugging Face checkpoint, read as an `Architecture`.

Every family has a table: the keys that are used, with what Hugging Face takes where
they are missing; the keys that do not change what is computed; and the keys that must
have one value, because others are not implemented. Whatever is in no table is refused
unless it is null, false or empty, so that no key is ever ignored by accident.
"""

from llmpq_jax.arch.families._quantization import read_quantization
from llmpq_jax.arch.families._read_config import FAMILIES, read_architecture

__all__ = ["FAMILIES", "read_architecture", "read_quantization"]
