"""Times llmpq-jax, llama.cpp and transformers in turns, and compares their logits.

    python -m tools.benchmarks.peers --bits 8 --batch 1 --batch 8 --batch 32

Prints a table row for each batch, and a JSON line with versions, command and date.
"""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

import click
import numpy as np

from llmpq_jax.schema.precision import Bits
from tools.benchmarks.models import CONFIGS, random_model
from tools.benchmarks.peers.protocol import Peer
from tools.benchmarks.peers.weights import HEAD_TYPE, write_dequantized, write_gguf

_OURS, _LLAMA_CPP, _TRANSFORMERS = "llmpq-jax", "llama.cpp", "transformers"
_MODULES = {
    _OURS: "tools.benchmarks.peers.with_llmpq_jax",
    _LLAMA_CPP: "tools.benchmarks.peers.with_llama_cpp",
    _TRANSFORMERS: "tools.benchmarks.peers.with_transformers",
}
_PHASES = ("prefill", "decode")


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--bits", type=click.Choice(["4", "8"]), default="8")
@click.option("--activations", default="float32")
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8, 32))
@click.option("--prompt", type=int, default=128)
@click.option("--new-tokens", type=int, default=128)
@click.option("--repeats", type=int, default=3)
@click.option(
    "--transformers/--no-transformers", "has_transformers", default=True, is_flag=True
)
def main(
    model: str,
    models: Path,
    bits: str,
    activations: str,
    batches: tuple[int, ...],
    prompt: int,
    new_tokens: int,
    repeats: int,
    has_transformers: bool,
) -> None:
    """Compare on a random checkpoint of a real shape."""
    folder = random_model(model, models)
    width = cast("Bits", int(bits))
    vocabulary = CONFIGS[model]["vocab_size"]
    gguf_path = models / f"{model}-{bits}.gguf"
    if not gguf_path.exists():
        write_gguf(folder, width, gguf_path)
    rounded = models / f"{model}-{bits}-dequantized"
    if not (rounded / "model.safetensors").exists():
        write_dequantized(folder, width, rounded)

    arguments = {
        _OURS: (str(folder), bits, activations),
        _LLAMA_CPP: (str(gguf_path), str(vocabulary)),
        # The values of our integers; float32 takes equally long for any values.
        _TRANSFORMERS: (str(rounded),),
    }
    if not has_transformers:
        del arguments[_TRANSFORMERS]
    peers = {name: Peer(_MODULES[name], *words) for name, words in arguments.items()}
    figures: dict[str, Any] = {
        "model": model,
        "bits": width,
        "activations": activations,
        "head": {_OURS: "int8", _LLAMA_CPP: HEAD_TYPE.name, _TRANSFORMERS: "float32"},
        "prompt": prompt,
        "new_tokens": new_tokens,
        "batches": [],
    }
    work = {"prompt": prompt, "new_tokens": new_tokens}
    try:
        for batch in batches:
            ready = {
                name: peer.ask("prepare", batch=batch, **work)
                for name, peer in peers.items()
            }
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
            for _ in range(repeats):
                for name, peer in peers.items():
                    runs[name].append(peer.ask("run"))
            row = _row(batch, prompt, new_tokens, runs)
            row["settings"] = {name: each["settings"] for name, each in ready.items()}
            figures["versions"] = {
                name: each["version"] for name, each in ready.items()
            }
            figures["llama.cpp system"] = ready[_LLAMA_CPP]["system"]
            figures["batches"].append(row)
            click.echo(_line(width, row))
        figures["logits"] = _compare_logits(peers, folder, models, prompt)
    finally:
        for peer in peers.values():
            peer.__exit__(None, None, None)
    for name, error in figures["logits"].items():
        click.echo(f"logits of {name}: relative error {error:.2g}")
    figures["command"] = shlex.join(
        ["python", "-m", "tools.benchmarks.peers", *sys.argv[1:]]
    )
    figures["date"] = datetime.now(UTC).date().isoformat()
    click.echo(json.dumps(figures))


def _row(
    batch: int,
    prompt: int,
    new_tokens: int,
    runs: dict[str, list[dict[str, float]]],
) -> dict[str, Any]:
    tokens = {"prefill": batch * prompt, "decode": batch * (new_tokens - 1)}
    row: dict[str, Any] = {"batch": batch}
    for phase in _PHASES:
        rates = {
            name: [tokens[phase] / run[f"{phase}_s"] for run in each]
            for name, each in runs.items()
        }
        row[phase] = {
            name: {
                "tokens_per_s": median(each),
                "min": min(each),
                "max": max(each),
            }
            for name, each in rates.items()
        }
        for name in rates.keys() - {_OURS}:
            # Ratios of successive runs, because the machine drifts.
            pairs = zip(rates[_OURS], rates[name], strict=True)
            row[phase][name]["ours_over_it"] = median(a / b for a, b in pairs)
    return row


def _line(bits: int, row: dict[str, Any]) -> str:
    cells = [f"| int{bits} | batch {row['batch']} |"]
    for phase in _PHASES:
        for name, found in row[phase].items():
            cell = f" {phase} {name} {found['tokens_per_s']:.1f}"
            if "ours_over_it" in found:
                cell += f" (ours {found['ours_over_it']:.2f} times)"
            cells.append(f"{cell} |")
    return "".join(cells)


def _compare_logits(
    peers: dict[str, Peer], folder: Path, models: Path, prompt: int
) -> dict[str, float]:
    """Returns norms of differences, relative to the reference's norm.

    The references are transformers in float32 with the dequantised weights, and with
    those of the checkpoint.
    """

    def logits(name: str, peer: Peer) -> np.ndarray:
        path = models.absolute() / f"logits-{name}.npy"
        peer.ask("logits", out=str(path), prompt=prompt)
        return np.load(path).astype(np.float64)

    found = {name: logits(name, peer) for name, peer in peers.items()}
    if _TRANSFORMERS not in found:
        return {}
    rounded = found.pop(_TRANSFORMERS)
    with Peer(_MODULES[_TRANSFORMERS], str(folder)) as peer:
        whole = logits("whole", peer)
    errors = {"llmpq-jax from its rounded weights": _distance(found[_OURS], rounded)}
    for name, own in found.items():
        errors[f"{name} from the checkpoint's weights"] = _distance(own, whole)
    return errors


def _distance(logits: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(logits - reference) / np.linalg.norm(reference))


if __name__ == "__main__":
    main()
