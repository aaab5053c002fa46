"""A model keeps its fingerprint when moved, and changes it with what it computes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import (
    layer_shape_fingerprint,
    model_fingerprint,
    strategy_fingerprint,
)
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.schema.solve_request import SolveRequest, Sources

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "models"


@pytest.fixture(params=["llama", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of one file, and one of several."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "model"))


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(config), encoding="utf-8")


def test_golden_models_have_different_fingerprints() -> None:
    names = [model_fingerprint(path) for path in sorted(GOLDEN.iterdir())]
    assert len(set(names)) == len(names)
    assert all(name.startswith("sha256:") and len(name) == 71 for name in names)


def test_fingerprints_in_committed_files_are_those_of_their_model() -> None:
    """Names of an architecture's fields are hashed: renaming one changes all fingerprints."""
    model = ROOT / "examples" / "tiny-code-lm"
    folder = ROOT / "strategies" / "tiny-four-cpu"
    measured = read_measurements(folder / "measurements.toml")
    planned = read_strategy(folder / "strategy.toml")
    assert layer_shape_fingerprint(read_architecture(model)) == measured.layer_shape
    assert model_fingerprint(model) == planned.model.fingerprint


def test_a_moved_model_keeps_its_fingerprint(folder: Path) -> None:
    before = model_fingerprint(folder)
    assert model_fingerprint(folder.rename(folder.parent / "moved")) == before


def test_an_ignored_key_keeps_the_fingerprint(folder: Path) -> None:
    before = model_fingerprint(folder)
    _edit_config(folder, transformers_version="6.0.0", use_cache=False)
    assert model_fingerprint(folder) == before


def test_another_computation_has_another_fingerprint(folder: Path) -> None:
    before = model_fingerprint(folder)
    _edit_config(folder, rms_norm_eps=1e-5)
    assert model_fingerprint(folder) != before


@pytest.mark.parametrize("place", ["first", "last", "header"])
def test_other_weights_have_another_fingerprint(folder: Path, place: str) -> None:
    before = model_fingerprint(folder)
    path = max(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    first_byte = 8 + int.from_bytes(content[:8], "little")
    content[{"first": first_byte, "last": -1, "header": first_byte - 2}[place]] ^= 1
    path.write_bytes(content)
    assert model_fingerprint(folder) != before


def test_a_longer_file_has_another_fingerprint(folder: Path) -> None:
    before = model_fingerprint(folder)
    path = min(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert model_fingerprint(folder) != before


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "llama" / "config.json", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"has no weights: expected model\.safeten"
    ):
        model_fingerprint(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        f"{100_000 * '['}1{100_000 * ']'}",
        f'{{"weight_map": {{"a": 1{5000 * "0"}}}}}',
        '{"weight_map": {"a": "b\\u0000c"}}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": {"a": 3}}',
    ],
    ids=["array", "deep", "digits", "nul", "folder", "number"],
)
def test_a_damaged_index_is_refused(tmp_path: Path, index: str) -> None:
    shutil.copy(GOLDEN / "llama" / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"weight_map(: found| cannot be read \()"
    ):
        model_fingerprint(tmp_path)


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "qwen2", tmp_path / "model"))
    shard = min(folder.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(
        CheckpointError, match=rf"{shard.name}: cannot be read \(No such"
    ):
        model_fingerprint(folder)


def test_a_strategy_keeps_its_name_whatever_was_asked_for() -> None:
    planned = read_strategy(ROOT / "strategies/tiny-four-cpu/strategy.toml")
    asked = SolveRequest(sources=Sources(cluster="cluster.toml", roofline=True))
    names = {
        strategy_fingerprint(replace(planned, request=request))
        for request in (None, asked)
    }
    assert len(names) == 1


def test_models_that_differ_in_depth_share_their_measurements() -> None:
    shallow = read_architecture(GOLDEN / "llama")
    deep = replace(
        shallow,
        num_layers=7,
        layer_windows=(None,) * 7,
        max_positions=9,
        ties_head=True,
    )
    assert layer_shape_fingerprint(deep) == layer_shape_fingerprint(shallow)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 64),
        ("intermediate_size", 65),
        ("num_heads", 8),
        ("num_kv_heads", 2),
        ("head_dim", 16),
        ("vocabulary_size", 97),
        ("activation", "gelu"),
        ("norm", "layer"),
        ("layer_windows", (None, 4, None)),
        ("has_qkv_bias", True),
        ("embedding_size", 16),
    ],
)
def test_models_that_differ_in_layer_embedding_or_head_do_not(
    field: str, value: object
) -> None:
    architecture = read_architecture(GOLDEN / "llama")
    changed = replace(architecture, **{field: value})  # pyright: ignore[reportArgumentType]
    assert layer_shape_fingerprint(changed) != layer_shape_fingerprint(architecture)


def test_the_fingerprint_of_a_strategy_is_of_what_it_runs() -> None:
    path = ROOT / "strategies" / "tiny-four-cpu" / "strategy.toml"
    strategy = read_strategy(path)
    name = strategy_fingerprint(strategy)
    stages = tuple(replace(stage, predicted=None) for stage in strategy.stages)
    moved = replace(strategy.model, path="/elsewhere")
    same = replace(strategy, model=moved, stages=stages, certificate=None, quality=None)
    assert strategy_fingerprint(replace(same, predicted=None)) == name
    first = strategy.stages[0]
    others = [
        replace(strategy, model=replace(strategy.model, fingerprint="sha256:other")),
        replace(strategy, precision=replace(strategy.precision, kv_bits=8)),
        replace(strategy, workload=replace(strategy.workload, new_tokens=3)),
        replace(strategy, stages=(replace(first, wire_bits=8), *strategy.stages[1:])),
    ]
    names = [strategy_fingerprint(other) for other in others]
    assert len({name, *names}) == 1 + len(others)


def test_no_file_of_another_folder_is_read(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    index = folder / "model.safetensors.index.json"
    for name in ("../secret", "/etc/passwd", "a/b"):
        index.write_text(json.dumps({"weight_map": {"a": "b", "c": name}}))
        with pytest.raises(
            CheckpointError, match=rf"found '{name}', expected the name"
        ):
            model_fingerprint(folder)
