"""Names a model by what it is: a hash of what it computes and of samples of its weights.

Plans and measurements carry these names, so that they are not used for another model. A
checkpoint keeps its name when it is moved, or when keys of its config.json change that
do not change the mathematics.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture, read_quantization
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import KIB

_SAMPLE_BYTES = 64 * KIB
_NAME_DIGITS = 12
_MAX_HEADER_BYTES = 100_000_000


def model_fingerprint(folder: Path) -> str:
    """Hashes a checkpoint: architecture, and of each weight file header and both ends.

    Weights are sampled, not read: a retrained model differs at either end of its files
    (there lie embeddings, heads, norms), and a large one would take minutes to read.

    Raises:
        SpecError: config.json cannot be read.
        UnsupportedModelError: The model is not implemented.
        CheckpointError: Weight files are missing or unreadable.
    """
    digest = hashlib.sha256(_canonical(asdict(read_architecture(folder))))
    quantization = read_quantization(folder)
    if quantization is not None:
        # The same integers mean other weights under another description.
        digest.update(_canonical(dict(quantization.values)))
    for path in _weight_files(folder):
        try:
            with path.open("rb") as file:
                size_bytes = file.seek(0, 2)
                file.seek(0)
                header_bytes = int.from_bytes(file.read(8), "little")
                header = file.read(min(header_bytes, _MAX_HEADER_BYTES))
                first = file.read(_SAMPLE_BYTES)
                file.seek(max(0, size_bytes - _SAMPLE_BYTES))
                last = file.read(_SAMPLE_BYTES)
        except OSError as reason:
            msg = f"weights {path}: cannot be read ({reason.strerror or reason}): expected a safetensors file"
            raise CheckpointError(msg) from reason
        for part in (header, first, last):
            # Its length goes first, so that no two lists of parts read alike.
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def has_weights(folder: Path) -> bool:
    """Whether a folder holds more of a checkpoint than its config.json."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return any((folder / name).is_file() for name in names)


def config_fingerprint(architecture: Architecture) -> str:
    """Names a model whose weights are not there; no checkpoint has such a name."""
    digest = hashlib.sha256(_canonical(asdict(architecture)))
    return f"config-sha256:{digest.hexdigest()}"


def strategy_fingerprint(strategy: Strategy) -> str:
    """Hashes what a strategy does, whatever was predicted or proven of it.

    It keeps its name when the model is moved.
    """
    model = replace(strategy.model, path="", rounded=None)
    stages = tuple(replace(stage, predicted=None) for stage in strategy.stages)
    done = replace(
        strategy,
        model=model,
        stages=stages,
        quality=None,
        predicted=None,
        certificate=None,
        provenance=None,
    )
    values = asdict(done)
    # Newer than the names that job files and measurements have of strategies.
    del values["request"]
    return f"sha256:{hashlib.sha256(_canonical(values)).hexdigest()}"


def plan_name(fingerprint: str) -> str:
    """Returns what results call a strategy: the first digits of its fingerprint."""
    return fingerprint.removeprefix("sha256:")[:_NAME_DIGITS]


def layer_shape_fingerprint(architecture: Architecture) -> str:
    """Hashes what fixes the cost of a layer and of both ends, whatever their weights.

    Models that differ only in depth, in context length or in a tied head share their
    measurements; of the layers' windows the distinct ones count.
    """
    fields = asdict(architecture)
    for name in ("family", "num_layers", "max_positions", "ties_head"):
        del fields[name]
    windows = set(architecture.layer_windows)
    fields["layer_windows"] = sorted(windows, key=lambda window: window or 0)
    return f"sha256:{hashlib.sha256(_canonical(fields)).hexdigest()}"


def _weight_files(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    except FileNotFoundError as reason:
        msg = f"checkpoint {folder}: has no weights: expected {whole.name} or {index.name}"
        raise CheckpointError(msg) from reason
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as reason:
        msg = f"weights {index}: weight_map cannot be read ({reason!r}): expected an index of safetensors files; fetch it again"
        raise CheckpointError(msg) from reason


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
