"""A written checkpoint against what the format's own library reads (tests/golden)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.open_store import open_store
from llmpq_jax.checkpoint.writer import write_served_weights
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import Strategy
from tests.support.same_tokens import logit_tolerance
from tests.support.tiny_models import make_strategy, write_tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
QUANTIZED = GOLDEN / "quantized"
LAYERS: list[Bits] = [4, 8, 16]


def _strategy(folder: Path) -> Strategy:
    strategy = make_strategy(folder, [((0,), LAYERS)], head_bits=8)
    return replace(strategy, precision=replace(strategy.precision, group_size=32))


def write_golden(folder: Path) -> None:
    """Writes what tests/golden/quantized holds."""
    strategy = _strategy(GOLDEN / "models" / "llama-tied-grouped")
    write_served_weights(open_store(strategy), strategy, folder)


def test_what_is_written_is_the_golden_folder_byte_for_byte(tmp_path: Path) -> None:
    write_golden(tmp_path)
    names = sorted(path.name for path in QUANTIZED.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (QUANTIZED / name).read_bytes()


def test_served_it_gives_the_logits_that_transformers_gives(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)  # for its tokenizer
    shutil.copytree(QUANTIZED, folder, dirs_exist_ok=True)
    golden = np.load(GOLDEN / "quantized.npz")
    with Pipeline.load(_strategy(folder)) as pipeline:
        found = pipeline.score(golden["tokens"])
    tolerance = logit_tolerance(read_architecture(folder), golden["logits"])
    np.testing.assert_allclose(found, golden["logits"], atol=tolerance, rtol=0)
