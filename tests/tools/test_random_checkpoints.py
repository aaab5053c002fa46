"""Random checkpoints are whole, reproducible, and of every supported config."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.reader import INDEX, CheckpointReader
from llmpq_jax.checkpoint.validate import check_checkpoint
from llmpq_jax.errors import UnsupportedModelError
from tests.checkpoint.configs import CONFIGS
from tools.random_checkpoints import (
    StoredDtype,
    write_random_checkpoint,
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_what_is_written_is_a_checkpoint_of_its_config(
    tmp_path: Path, name: str, dtype: StoredDtype
) -> None:
    write_random_checkpoint(tmp_path, CONFIGS[name], dtype=dtype)
    stored = CheckpointTensors.open(tmp_path)
    check_checkpoint(stored)
    reader = stored.reader
    assert {reader.dtype(name).name for name in reader} == {dtype}
    assert json.loads((tmp_path / "config.json").read_bytes()) == CONFIGS[name]


def test_shards_change_nothing_but_the_files(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_random_checkpoint(whole, CONFIGS["opt"], seed=5)
    write_random_checkpoint(cut, CONFIGS["opt"], seed=5, shard_bytes=3000)
    assert not (whole / INDEX).exists()
    assert len(list(cut.glob("*.safetensors"))) > 3
    one, several = CheckpointReader(whole), CheckpointReader(cut)
    assert sorted(one) == sorted(several)
    assert all(np.array_equal(one.read(name), several.read(name)) for name in one)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    readers = []
    for seed in (0, 1):
        write_random_checkpoint(tmp_path / str(seed), CONFIGS["llama"], seed=seed)
        readers.append(CheckpointReader(tmp_path / str(seed)))
    for name in readers[0]:
        assert not np.array_equal(readers[0].read(name), readers[1].read(name))


def test_matrices_keep_the_size_of_hidden_states(tmp_path: Path) -> None:
    config = CONFIGS["llama"] | {"hidden_size": 400, "intermediate_size": 100}
    write_random_checkpoint(tmp_path, config, dtype="float32")
    weight = CheckpointReader(tmp_path).read("model.layers.0.mlp.up_proj.weight")
    assert weight.shape == (100, 400)
    # 40,000 draws: the deviation is known to 1/√(2·40,000) = 0.35 %.
    assert weight.std() == pytest.approx(400**-0.5, rel=0.02)


def test_an_unsupported_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"model_type is 'gpt2'"):
        write_random_checkpoint(tmp_path, {"model_type": "gpt2"})
