"""A float32 checkpoint served as it is: measured, planned and run at 32 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmpq_jax.checkpoint.reader import WHOLE
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.record_files import read_strategy
from tests.cli.every_command import SIZES
from tests.support.tiny_models import write_tiny_model


@pytest.fixture
def float32_model(tmp_path: Path) -> Path:
    """Writes a model whose weights need all bits of float32."""
    folder = write_tiny_model(tmp_path / "float32")
    generator = np.random.default_rng(0)
    tensors = {
        name: array.astype(np.float32) * generator.uniform(0.99, 1.01, array.shape)
        for name, array in load_file(folder / WHOLE).items()
    }
    wide = {name: array.astype(np.float32) for name, array in tensors.items()}
    save_file(wide, folder / WHOLE)
    return folder


def test_it_is_measured_planned_and_served_at_32_bits(
    run, float32_model, cluster, tmp_path
):
    measurements, plan = tmp_path / "measurements.toml", tmp_path / "plan.toml"
    files = ("--model", float32_model, "--cluster", cluster)
    measured = run(
        *("profile", *files, "--out", measurements, *SIZES, "--bits", "32,8")
    )
    assert measured.exit_code == 0, measured.output
    asked = ("--measurements", measurements, "--out", plan, *SIZES)
    solved = run("solve", *files, *asked, "--bits", "32", "--head-bits", 32)
    assert solved.exit_code == 0, solved.output
    assert "rounded to bfloat16" not in solved.stderr
    strategy = read_strategy(plan)
    assert set(strategy.bits) == {32}
    assert strategy.precision.head_bits == 32
    with Pipeline.load(strategy) as pipeline:
        kept = pipeline.score(np.arange(12)[None])
    rounded = run("solve", *files, *asked, "--bits", "8")
    assert rounded.exit_code == 0, rounded.output
    assert "--bits 32 --head-bits 32" in rounded.stderr
    mixed = run("solve", *files, *asked, "--bits", "32,8", "--theta", 0)
    assert mixed.exit_code == 0, mixed.output
    with Pipeline.load(read_strategy(plan)) as pipeline:
        assert not np.array_equal(pipeline.score(np.arange(12)[None]), kept)
    done = run("explain", "--strategy", plan, "--measurements", measurements)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--bits", 32),
            "layer 0 of the checkpoint can be served at 16 or 8 or 4 bits",
        ),
        (("--head-bits", 32), "lm_head has no more than 16 bits, the plan asks for 32"),
        (("--bits", "32,2"), "found '2', expected some of 32, 16, 8, 4"),
    ],
)
def test_what_cannot_have_32_bits_says_so(run, model, cluster, tmp_path, words, line):
    files = ("--model", model, "--cluster", cluster, "--out", tmp_path / "plan.toml")
    sources = ("--measurements", Path(__file__).with_name("measurements.toml"))
    result = run("solve", *files, *sources, *SIZES, *words)
    assert result.exit_code != 0
    assert line in " ".join(result.stderr.split())
    assert not (tmp_path / "plan.toml").exists()
