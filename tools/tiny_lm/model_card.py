"""The tiny model's card: what it is, how it was trained, and its evaluation."""

from __future__ import annotations

import json
import platform
import shutil
import sysconfig
from pathlib import Path

import jax
import optax

from tools.tiny_lm.corpus import Corpus
from tools.tiny_lm.network import CONFIG
from tools.tiny_lm.training import Recipe


def write_model_card(
    folder: Path, recipe: Recipe, corpus: Corpus, curve: Path, figures: dict[str, float]
) -> None:
    """Writes README.md, splits.json and the training curve (JSON lines)."""
    rows = {row["step"]: row for row in map(json.loads, curve.read_text().splitlines())}
    every = max(1, len(rows) // 100)
    kept = [row for index, row in enumerate(rows.values()) if index % every == 0]
    (folder / "training_curve.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in kept)
    )
    (folder / "splits.json").write_text(
        json.dumps(
            {name: list(modules) for name, modules in corpus.held_out.items()}, indent=2
        )
        + "\n"
    )
    table = "\n".join(f"| {name} | {bits:.3f} |" for name, bits in figures.items())
    tokens = recipe.step_tokens * recipe.num_steps
    (folder / "README.md").write_text(
        _CARD.format(
            layers=CONFIG["num_hidden_layers"],
            width=CONFIG["hidden_size"],
            python=platform.python_version(),
            jax=jax.__version__,
            optax=optax.__version__,
            tokens=f"{tokens / 1e6:.1f}",
            seconds=f"{max(row['seconds'] for row in rows.values()):.0f}",
            table=table,
            modules=len(corpus.training),
            dropped=", ".join(corpus.dropped) or "none",
        ),
        encoding="utf-8",
    )


def write_licence(folder: Path) -> None:
    """Copies Python's licence next to the texts that are parts of Python."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    shutil.copyfile(stdlib / "LICENSE.txt", folder / "LICENSE.PSF")


_CARD = """---
license: psf-2.0
library_name: transformers
tags: [code, python, tiny]
---

# tiny-code-lm

A Llama-architecture decoder of 6.3 million parameters ({layers} layers, {width} wide,
6 query heads on 2 key-value heads, untied head, byte-level BPE of 4,096) that continues
Python source. It is small enough to ship with a program and has learned enough for
quality figures to mean something. It knows nothing but the style of a library: do not
use it for anything but tests, examples and measurements.

## Data

The source files of the standard library of Python {python} ({modules} modules, tests
included at a quarter of the windows; `encodings`, `pydoc_data` and tables left out).
Three sets of whole modules were held out before training and ship with the weights:
`calibration.txt`, `validation.txt`, `evaluation.txt`; documents are separated by
`<|endoftext|>`, `splits.json` names them. Training files that shared more than a fifth
of their shingles with a held-out module were dropped: {dropped}.

The three texts are parts of Python, Copyright © 2001 Python Software Foundation, all
rights reserved, distributed under the PSF licence; see `LICENSE.PSF` here.

## Training

`python -m tools.train_tiny_lm`: {tokens} million tokens in {seconds} s on 2 CPU cores,
JAX {jax}, optax {optax}, Muon for matrices, Adam for the rest. `training_curve.jsonl`
has the smoothed loss in nats per token.

## Evaluation split, bits per byte

| | bits per byte |
|---|---|
{table}
"""
