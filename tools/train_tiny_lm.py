"""Trains the tiny language model of `examples/` on Python's standard library.

    python -m tools.train_tiny_lm --work-dir build/tiny-lm --out examples/tiny-code-lm

An interrupted run continues where it stopped. About an hour on 2 idle cores.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import jax
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from tools.tiny_lm.corpus import (
    DOCUMENT_SEPARATOR,
    Corpus,
    is_library,
    split_standard_library,
)
from tools.tiny_lm.export import (
    baseline_bits_per_byte,
    bits_per_byte,
    export_checkpoint,
)
from tools.tiny_lm.model_card import write_licence, write_model_card
from tools.tiny_lm.tokenizer import load_tokenizer, train_tokenizer
from tools.tiny_lm.training import Recipe, restore_params, train


@click.command()
@click.option(
    "--work-dir", type=click.Path(path_type=Path), default=Path("build/tiny-lm")
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("examples/tiny-code-lm")
)
@click.option("--steps", type=int, default=Recipe().num_steps, show_default=True)
def main(work_dir: Path, out: Path, steps: int) -> None:
    """Trains (or continues training), exports and evaluates the tiny model."""
    if jax.config.values["jax_platforms"] in (None, "", "cpu"):
        # One emulated device per core: elementwise work then runs on all of them.
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    work_dir.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(num_steps=steps)
    corpus = split_standard_library()
    tokenizer_path = work_dir / "tokenizer.json"
    if not tokenizer_path.exists():
        train_tokenizer(corpus.training.values()).save(str(tokenizer_path))
    tokenizer = load_tokenizer(tokenizer_path)
    texts = {
        "library": _tokens(corpus, tokenizer, library=True),
        "tests": _tokens(corpus, tokenizer, library=False),
    }
    click.echo(
        f"training tokens: { {name: len(t) for name, t in texts.items()} }", err=True
    )
    curve = work_dir / "curve.jsonl"
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("training", total=recipe.num_steps)
        for row, _ in train(texts, recipe, work_dir):
            with curve.open("a") as file:
                file.write(
                    json.dumps(
                        {"step": row.step, "loss": row.loss, "seconds": row.seconds}
                    )
                    + "\n"
                )
            bar.update(task, completed=row.step, description=f"loss {row.loss:.3f}")
    params = restore_params(recipe, work_dir)
    export_checkpoint(params, tokenizer, out)
    for split, modules in corpus.held_out.items():
        text = DOCUMENT_SEPARATOR.join(modules.values())
        (out / f"{split}.txt").write_text(text, encoding="utf-8")
    write_licence(out)
    evaluated = list(corpus.held_out["evaluation"].values())
    figures = {"this model": bits_per_byte(params, tokenizer, evaluated)}
    figures |= baseline_bits_per_byte(evaluated, list(corpus.training.values()))
    write_model_card(out, recipe, corpus, curve, figures)
    for name, bits in figures.items():
        click.echo(f"{name:35s} {bits:.3f} bits per byte")


def _tokens(corpus: Corpus, tokenizer: Tokenizer, *, library: bool) -> np.ndarray:
    documents = [
        t for path, t in corpus.training.items() if is_library(path) == library
    ]
    order = np.random.default_rng(0).permutation(len(documents))
    encodings = tokenizer.encode_batch(
        [documents[index] for index in order], add_special_tokens=False
    )
    return np.concatenate([np.array([0, *e.ids], np.int32) for e in encodings])


if __name__ == "__main__":
    main()
