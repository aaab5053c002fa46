"""Description of a checkpoint's quantised weights.

Newer files have it in config.json under quantization_config. Before, AutoGPTQ wrote
quantize_config.json and AutoAWQ wrote quant_config.json, and the file name implies the
method. `llmpq_jax.checkpoint.formats` interprets the description.
"""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.arch.families._config import Config
from llmpq_jax.arch.families._read_config import read_json
from llmpq_jax.errors import SpecError

KEY = "quantization_config"
_OLDER_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def read_quantization(folder: Path) -> Config | None:
    """Reads the description of a checkpoint's quantised weights; None if it has none.

    Raises:
        SpecError: If a file is not JSON, or the description is not an object.
    """
    path = folder / "config.json"
    if path.is_file():
        found = read_json(path).get(KEY)
        if found is not None:
            if not isinstance(found, dict):
                msg = f"config {path}: {KEY}: found {found!r}, expected an object"
                raise SpecError(msg)
            return Config(path=path, values=found, inside=f"{KEY}.")
    for name, method in _OLDER_FILES.items():
        path = folder / name
        if path.is_file():
            return Config(path=path, values={"quant_method": method, **read_json(path)})
    return None
