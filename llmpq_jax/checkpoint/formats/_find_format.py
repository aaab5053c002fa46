"""Finds the format of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from llmpq_jax.arch.families import Config, read_quantization
from llmpq_jax.checkpoint.formats._format import Format
from llmpq_jax.checkpoint.formats.awq import read_awq
from llmpq_jax.checkpoint.formats.compressed_tensors import read_compressed_tensors
from llmpq_jax.checkpoint.formats.gptq import read_gptq

_READERS: Mapping[str, Callable[[Config], Format]] = {
    "gptq": read_gptq,
    "awq": read_awq,
    "compressed-tensors": read_compressed_tensors,
}


def read_format(folder: Path) -> Format | None:
    """Reads how a checkpoint's weights are quantised; None if they are not.

    Raises:
        SpecError: The description cannot be read.
        UnsupportedModelError: It asks for what is not implemented.
    """
    found = read_quantization(folder)
    if found is None:
        return None
    return found.choice("quant_method", _READERS)(found)
