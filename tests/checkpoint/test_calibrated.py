from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.checkpoint.calibrated import (
    MANIFEST,
    CalibratedWeights,
    Calibration,
    LayerOrHead,
    LowBits,
    begin,
    finish,
    write_matrices,
)
from llmpq_jax.errors import CheckpointError, StrategyError
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.runtime import Pipeline
from tests.support.tiny_models import make_strategy, write_tiny_model

CALIBRATION = Calibration(
    fingerprint="sha256:1", rounding="gptq", group_size=32, text="t"
)


def _weight(seed: int, bits) -> QArray:
    drawn = np.random.default_rng(seed).standard_normal((64, 4), np.float32)
    return quantize(jnp.asarray(drawn), bits=bits, group_size=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin(tmp_path)
    write_matrices(tmp_path, 3, 4, {"mlp.up.weight": _weight(0, 4)})
    write_matrices(tmp_path, "head", 8, {"vocabulary.weight": _weight(1, 8)})
    finish(tmp_path, CALIBRATION)
    return tmp_path


def test_what_was_written_is_read_bit_for_bit(folder):
    rounded = CalibratedWeights(folder, fingerprint="sha256:1")
    assert rounded.calibration == CALIBRATION
    written: tuple[tuple[LayerOrHead, LowBits, str, int], ...] = (
        (3, 4, "mlp.up.weight", 0),
        ("head", 8, "vocabulary.weight", 1),
    )
    for part, bits, name, seed in written:
        found = rounded.read(part, bits)
        assert set(found) == {name}
        expected = _weight(seed, bits)
        assert found[name].bits == bits
        np.testing.assert_array_equal(found[name].values, expected.values)
        np.testing.assert_array_equal(found[name].scale, expected.scale)


def test_a_folder_that_was_not_finished_is_refused(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"rounded\.json is missing or damaged"):
        CalibratedWeights(folder, fingerprint="sha256:1")
    (folder / MANIFEST).write_text('{"schema": 1}')
    with pytest.raises(CheckpointError, match=r"rounded\.json is missing or damaged"):
        CalibratedWeights(folder, fingerprint="sha256:1")


def test_another_model_s_weights_are_refused(folder):
    with pytest.raises(
        CheckpointError, match="are of the model sha256:1, expected sha2"
    ):
        CalibratedWeights(folder, fingerprint="sha256:2")


def test_a_file_that_changed_is_refused(folder):
    path = folder / "layer-003-int4.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    rounded = CalibratedWeights(folder, fingerprint="sha256:1")
    with pytest.raises(
        CheckpointError, match=r"has another checksum than rounded\.json"
    ):
        rounded.read(3, 4)


def test_a_file_that_is_not_there_is_missed(folder):
    rounded = CalibratedWeights(folder, fingerprint="sha256:1")
    with pytest.raises(
        CheckpointError, match=r"layer-002-int8\.safetensors is missing"
    ):
        rounded.read(2, 8)
    (folder / "layer-003-int4.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"layer-003-int4\.safetensors is missing"
    ):
        rounded.read(3, 4)


def test_a_strategy_names_the_weights_it_was_planned_with(tmp_path):
    strategy = make_strategy(write_tiny_model(tmp_path / "model"), [((0,), [8] * 4)])
    precision = replace(strategy.precision, rounding="gptq", group_size=32)
    nameless = replace(strategy, precision=precision)
    with pytest.raises(StrategyError, match="rounded by 'gptq' and names no folder of"):
        Pipeline.load(nameless)
    folder = tmp_path / "rounded"
    folder.mkdir()
    finish(folder, replace(CALIBRATION, fingerprint=strategy.model.fingerprint))
    model = replace(strategy.model, rounded=str(folder))
    other = replace(nameless, model=model, precision=replace(precision, group_size=64))
    with pytest.raises(
        StrategyError, match="'gptq' in groups of 32, expected 'gptq' in"
    ):
        Pipeline.load(other)
    values = json.loads((folder / MANIFEST).read_text())
    assert values["files"] == {}
    with pytest.raises(
        CheckpointError, match=r"layer-000-int8\.safetensors is missing"
    ):
        Pipeline.load(replace(nameless, model=model))


def test_a_folder_that_is_begun_again_cannot_be_read_until_it_is_finished(folder):
    begin(folder)
    with pytest.raises(CheckpointError, match=r"rounded\.json is missing or damaged"):
        CalibratedWeights(folder, fingerprint="sha256:1")
    finish(folder, CALIBRATION)
    CalibratedWeights(folder, fingerprint="sha256:1").read(3, 4)
