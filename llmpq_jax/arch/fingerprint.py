"""Fingerprints of models: hashes of an architecture and of samples of its weights.

Plans and measurements have these fingerprints, so that they are not used for another
model. A checkpoint keeps its fingerprint when it is moved, and when keys of its config.json
change that do not change what it computes.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from dataclasses import asdict, replace
from pathlib import Path

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture, read_quantization
from llmpq_jax.errors import CheckpointError
from llmpq_jax.files import reading
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import KIB

_SAMPLE_BYTES = 64 * KIB
_NAME_DIGITS = 12
_MAX_HEADER_BYTES = 100_000_000


def model_fingerprint(folder: Path) -> str:
    """Hashes a checkpoint: its architecture, and header, start and end of its weight files.

    Weights are only sampled, since a large model would take minutes to read. A retrained
    model differs at the start or the end of its files, where embedding, head and norms are.

    Raises:
        SpecError: If config.json cannot be read.
        UnsupportedModelError: If the model is not implemented.
        CheckpointError: If weight files are missing or unreadable.
    """
    digest = hashlib.sha256(_canonical(asdict(read_architecture(folder))))
    quantization = read_quantization(folder)
    if quantization is not None:
        # The same integers are other weights if they are described in another way.
        digest.update(_canonical(dict(quantization.values)))
    for path in _weight_files(folder):
        with (
            reading(path, "weights", "a safetensors file", CheckpointError),
            path.open("rb") as file,
        ):
            size_bytes = file.seek(0, 2)
            file.seek(0)
            header_bytes = int.from_bytes(file.read(8), "little")
            header = file.read(min(header_bytes, _MAX_HEADER_BYTES))
            first = file.read(_SAMPLE_BYTES)
            file.seek(max(0, size_bytes - _SAMPLE_BYTES))
            last = file.read(_SAMPLE_BYTES)
        for part in (header, first, last):
            # The length makes the concatenation of the parts unambiguous.
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a checkpoint's weights."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return any((folder / name).is_file() for name in names)


def config_fingerprint(architecture: Architecture) -> str:
    """Hashes a model without weights; differs from every checkpoint's fingerprint."""
    return f"config-{_digest(asdict(architecture))}"


def strategy_fingerprint(strategy: Strategy) -> str:
    """Hashes what a strategy runs, without predictions, proofs and the model's path."""
    done = replace(
        strategy,
        model=replace(strategy.model, path="", rounded=None),
        stages=tuple(replace(stage, predicted=None) for stage in strategy.stages),
        quality=None,
        predicted=None,
        certificate=None,
        provenance=None,
    )
    values = asdict(done)
    # Fingerprints in older files are without it.
    del values["request"]
    return _digest(values)


def plan_name(fingerprint: str) -> str:
    """Returns the name of a strategy in results: the start of its fingerprint."""
    return fingerprint.removeprefix("sha256:")[:_NAME_DIGITS]


def layer_shape_fingerprint(architecture: Architecture) -> str:
    """Hashes what determines the cost of a layer, of the embedding and of the head.

    Models that differ only in the number of layers, in context length or in a tied head
    share their measurements. Of the layers' windows, the distinct ones count.
    """
    fields = asdict(architecture)
    for name in ("family", "num_layers", "max_positions", "ties_head"):
        del fields[name]
    windows = set(architecture.layer_windows)
    fields["layer_windows"] = sorted(windows, key=lambda window: window or 0)
    return _digest(fields)


def _weight_files(folder: Path) -> list[Path]:
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        if any("\0" in name or Path(name).name != name for name in names):
            raise ValueError(names)
        return [folder / name for name in sorted(names)]
    except FileNotFoundError as reason:
        msg = f"checkpoint {folder}: has no weights: expected {whole.name} or {index.name}"
        raise CheckpointError(msg) from reason
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError),
        RecursionError,
    ) as reason:
        msg = f"weights {index}: weight_map cannot be read ({reprlib.repr(reason)}): expected an index of safetensors files; fetch it again"
        raise CheckpointError(msg) from reason


def _digest(value: object) -> str:
    return f"sha256:{hashlib.sha256(_canonical(value)).hexdigest()}"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
