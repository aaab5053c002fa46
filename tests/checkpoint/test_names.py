"""Names and transforms lead from Hugging Face's tensors to ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import FAMILIES, read_architecture
from llmpq_jax.checkpoint.names import CheckpointNames, all_sources
from llmpq_jax.checkpoint.reader import CheckpointReader
from tests.checkpoint.configs import CONFIGS

GOLDEN = Path(__file__).parents[1] / "golden" / "models"


def _architecture(folder: Path, config: object) -> Architecture:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return read_architecture(path)


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_files_that_transformers_wrote_hold_these_names_and_shapes(
    folder: Path,
) -> None:
    reader = CheckpointReader(folder)
    sources = all_sources(CheckpointNames(read_architecture(folder), reader))
    files = {file.name: file for _, file in sources}
    assert {file.name: file.shape for file in files.values()} == {
        name: reader.shape(name) for name in reader
    }


def test_golden_models_cover_every_family() -> None:
    covered = {read_architecture(folder).family for folder in GOLDEN.iterdir()}
    assert covered == set(FAMILIES)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_transform_gives_the_shape_that_spec_describes(
    tmp_path: Path, name: str
) -> None:
    names = CheckpointNames(_architecture(tmp_path, CONFIGS[name]))
    for tensor, file in (*names.embedding(), *names.layer(1), *names.head()):
        stored = np.zeros(file.shape, np.float32)
        assert file.to_ours(stored).shape == tensor.shape, tensor.name


def test_a_matrix_is_turned_round(tmp_path: Path) -> None:
    names = CheckpointNames(_architecture(tmp_path, CONFIGS["llama"]))
    files = {tensor.name: file for tensor, file in names.layer(0)}
    up = files["mlp.up.weight"]
    assert up.name == "model.layers.0.mlp.up_proj.weight"
    stored = np.arange(40 * 24).reshape(40, 24)
    assert up.to_ours(stored)[3, 7] == stored[7, 3]


def test_bloom_keeps_query_key_and_value_head_by_head(tmp_path: Path) -> None:
    names = CheckpointNames(_architecture(tmp_path, CONFIGS["bloom"]))
    files = {tensor.name: file for tensor, file in names.layer(1)}
    num_heads, head_dim, hidden_size = 4, 6, 24
    stored = np.arange(3 * hidden_size * hidden_size).reshape(-1, hidden_size)
    bias = np.arange(3 * hidden_size)
    for part, name in enumerate(("query", "key", "value")):
        weight_CF = files[f"attention.{name}.weight"].to_ours(stored)
        bias_F = files[f"attention.{name}.bias"].to_ours(bias)
        for head in range(num_heads):
            for place in range(head_dim):
                ours, theirs = (
                    head * head_dim + place,
                    (head * 3 + part) * head_dim + place,
                )
                assert np.array_equal(weight_CF[:, ours], stored[theirs])
                assert bias_F[ours] == bias[theirs]


@pytest.mark.parametrize(
    ("name", "table", "layer_0"),
    [
        ("llama", "model.embed_tokens.weight", "model.layers.0."),
        ("llama", "embed_tokens.weight", "layers.0."),
        ("opt", "model.decoder.embed_tokens.weight", "model.decoder.layers.0."),
        ("opt", "decoder.embed_tokens.weight", "decoder.layers.0."),
        ("opt", "embed_tokens.weight", "layers.0."),
        ("bloom", "transformer.word_embeddings.weight", "transformer.h.0."),
        ("bloom", "word_embeddings.weight", "h.0."),
    ],
)
def test_the_prefix_is_the_one_the_file_uses(
    tmp_path: Path, name: str, table: str, layer_0: str
) -> None:
    names = CheckpointNames(_architecture(tmp_path, CONFIGS[name]), [table])
    assert all(file.name.startswith(layer_0) for _, file in names.layer(0))
    assert names.embedding()[0][1].name == table


@pytest.mark.parametrize("name", ["mistral", "opt", "bloom"])
def test_a_stored_head_is_read_though_the_config_ties_it(
    tmp_path: Path, name: str
) -> None:
    architecture = _architecture(tmp_path, CONFIGS[name])
    assert architecture.ties_head
    (_, table), *_ = CheckpointNames(architecture).embedding()
    names = CheckpointNames(architecture, [table.name, "lm_head.weight"])
    assert names.embedding()[0][1].name == table.name
    assert names.head()[-1][1].name == "lm_head.weight"
    assert not names.shares_table


def test_a_head_alone_is_the_embedding_too(tmp_path: Path) -> None:
    architecture = _architecture(tmp_path, CONFIGS["mistral"])
    layer = "layers.0.mlp.up_proj.weight"
    names = CheckpointNames(architecture, ["lm_head.weight", layer])
    assert names.embedding()[0][1].name == "lm_head.weight"
    assert not names.embedding()[0][1].is_transposed
    assert names.head()[-1][1].name == "lm_head.weight"
    assert layer in {file.name for _, file in names.layer(0)}


def test_a_tied_head_is_the_embedding_turned_round(tmp_path: Path) -> None:
    names = CheckpointNames(_architecture(tmp_path, CONFIGS["mistral"]))
    _, table = names.embedding()[0]
    _, head = names.head()[-1]
    assert head.name == table.name
    assert head.is_transposed
    assert not table.is_transposed
