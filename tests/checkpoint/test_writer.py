"""What is written is what would have been served, to the bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.calibrated import Calibration, finish, write_matrices
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.load import Weights, load_weights
from llmpq_jax.checkpoint.names import CheckpointNames
from llmpq_jax.checkpoint.open_store import open_store
from llmpq_jax.checkpoint.reader import WHOLE
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.checkpoint.validate import check_bits, check_checkpoint
from llmpq_jax.checkpoint.writer import write_served_weights
from llmpq_jax.errors import UnsupportedModelError
from llmpq_jax.quant import QArray
from llmpq_jax.quant.rounding import round_weight
from llmpq_jax.schema.precision import ALL_BITS, Bits, HeadBits, vector_bits
from llmpq_jax.schema.strategy import Strategy
from tests.checkpoint.configs import CONFIGS
from tests.checkpoint.formats.independent_reader import read_folder
from tests.referees.quantized_product import reference_weight
from tests.support.tiny_models import make_strategy
from tools.random_checkpoints import write_random_checkpoint

_GATED = {"hidden_size": 64, "intermediate_size": 96}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": CONFIGS["llama"] | _GATED,
    "llama-biases": CONFIGS["llama-biases"],
    "qwen2": CONFIGS["qwen2"] | _GATED,
    "opt": CONFIGS["opt"] | {"hidden_size": 64, "ffn_dim": 96},
    "opt-350m": CONFIGS["opt-350m"],
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and bits and rounding to serve it at."""

    family: str
    ties_head: bool
    dtype: Literal["bfloat16", "float32"]
    bits: tuple[Bits, ...]
    head_bits: HeadBits
    group_size: Literal[32, 64]
    rounding: Literal["nearest", "gptq"]
    seed: int


def _at_stored_bits(case: Case) -> Case:
    """Returns a case without 32 bits if its weights have fewer."""
    if case.dtype == "float32":
        return case
    bits: tuple[Bits, ...] = tuple(16 if each == 32 else each for each in case.bits)
    head_bits: HeadBits = 16 if case.head_bits == 32 else case.head_bits
    return replace(case, bits=bits, head_bits=head_bits)


cases = st.builds(
    Case,
    family=st.sampled_from(sorted(FAMILIES)),
    ties_head=st.booleans(),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    bits=st.tuples(*[st.sampled_from(ALL_BITS)] * 2),
    head_bits=st.sampled_from([8, 16, 32]),
    group_size=st.sampled_from([32, 64]),
    rounding=st.sampled_from(["nearest", "gptq"]),
    seed=st.integers(0, 2**31),
).map(_at_stored_bits)


@contextmanager
def _written(case: Case) -> Iterator[tuple[WeightStore, Strategy, Path]]:
    with tempfile.TemporaryDirectory() as name:
        model, out = Path(name) / "model", Path(name) / "out"
        out.mkdir()
        config = FAMILIES[case.family] | {"tie_word_embeddings": case.ties_head}
        write_random_checkpoint(model, config, seed=case.seed, dtype=case.dtype)
        strategy = make_strategy(
            model, [((0,), list(case.bits))], head_bits=case.head_bits
        )
        precision = replace(
            strategy.precision, group_size=case.group_size, rounding=case.rounding
        )
        strategy = replace(strategy, precision=precision)
        if case.rounding != "nearest":
            folder = Path(name) / "rounded"
            _round(strategy, folder, case)
            reference = replace(strategy.model, rounded=str(folder))
            strategy = replace(strategy, model=reference)
        store = open_store(strategy)
        write_served_weights(store, strategy, out, shard_bytes=1 << 15)
        yield store, strategy, out


def _round(strategy: Strategy, folder: Path, case: Case) -> None:
    """Fills a folder with weights compensated for inputs that are made up."""
    model = Path(strategy.model.path)
    store = WeightStore(CheckpointTensors.open(model))
    generator = np.random.default_rng(case.seed)

    def rounded(weights: Weights, bits: Literal[4, 8]) -> dict[str, QArray]:
        found = {}
        for name, weight in weights.items():
            if isinstance(weight, jax.Array) and weight.ndim == 2:
                inputs = generator.standard_normal((99, weight.shape[0]), np.float32)
                found[name] = round_weight(
                    weight.astype(jnp.float32),
                    jnp.asarray(inputs.T @ inputs),
                    bits=bits,
                    group_size=case.group_size,
                    rounding="gptq",
                )
        return found

    for layer, bits in enumerate(case.bits):
        if bits not in (16, 32):
            weights = load_weights(store.layer(layer, bits=16))
            write_matrices(folder, layer, bits, rounded(weights, bits))
    if case.head_bits == 8:
        weights = load_weights(store.head(bits=16))
        write_matrices(folder, "head", 8, rounded(weights, 8))
    folder.mkdir(exist_ok=True)
    calibration = Calibration(
        fingerprint=strategy.model.fingerprint,
        rounding="gptq",
        group_size=case.group_size,
        text="made up",
    )
    finish(folder, calibration)


def _load(store: WeightStore, strategy: Strategy) -> list[Weights]:
    """Everything that serving would load."""
    precision = strategy.precision
    layers = [
        load_weights(store.layer(layer, bits=bits), group_size=precision.group_size)
        for layer, bits in enumerate(strategy.bits)
    ]
    head = load_weights(store.head(bits=precision.head_bits))
    looked_up = store.embedding(bits=vector_bits(precision.head_bits))
    return [load_weights(looked_up), *layers, head]


@given(cases)
def test_what_is_loaded_back_is_what_was_served_to_the_bit(case: Case) -> None:
    with _written(case) as (store, strategy, out):
        stored = CheckpointTensors.open(out)
        ties_head = case.ties_head and case.head_bits != 8
        assert stored.architecture == replace(store.architecture, ties_head=ties_head)
        check_checkpoint(stored)
        check_bits(stored, layers=case.bits, head=case.head_bits)
        new = WeightStore(stored)
        for served, loaded in zip(
            _load(store, strategy), _load(new, strategy), strict=True
        ):
            assert loaded.keys() == served.keys()
            for name, weight in served.items():
                # Bits of a weight are part of the tree's structure.
                found, structure = jax.tree.flatten(loaded[name])
                expected, expected_structure = jax.tree.flatten(weight)
                assert structure == expected_structure
                for leaf, expected_leaf in zip(found, expected, strict=True):
                    assert leaf.dtype == expected_leaf.dtype
                    np.testing.assert_array_equal(leaf, expected_leaf)


@given(cases.map(lambda case: replace(case, rounding="nearest")))
def test_an_independent_reader_finds_the_matrices_of_the_reference(case: Case) -> None:
    with _written(case) as (store, strategy, out):
        found = read_folder(out)
        names = CheckpointNames(read_architecture(out))
        embedding, *layers, head = _load(store, strategy)
        few = set()
        for weights, sources in [
            (embedding, names.embedding()),
            *((weights, names.layer(at)) for at, weights in enumerate(layers)),
            (head, names.head()),
        ]:
            for tensor, file in sources:
                weight: Any = weights[tensor.name]
                module = file.name.removesuffix(".weight")
                if isinstance(weight, QArray):
                    few.add(module)
                    assert found.bits[module] == weight.bits
                    expected = reference_weight(weight).T
                    np.testing.assert_array_equal(found.dense_FC[module], expected)
                    continue
                plain = np.asarray(weight)
                expected = plain.T if file.is_transposed else plain
                np.testing.assert_array_equal(found.plain[file.name], expected)
                if tensor.name == "vocabulary.weight":
                    module = "lm_head"
                is_listed = tensor.is_matrix and bool(found.dense_FC)
                assert (module in found.ignored) == is_listed
        assert found.dense_FC.keys() == few
        tied = found.config["tie_word_embeddings"]
        assert tied == (case.ties_head and case.head_bits != 8)


def _small(tmp_path: Path, family: str, **config: Any) -> Path:
    write_random_checkpoint(tmp_path / "model", CONFIGS[family] | config)
    (tmp_path / "out").mkdir()
    return tmp_path / "model"


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    model = _small(tmp_path, "llama", tie_word_embeddings=True)
    strategy = make_strategy(model, [((0,), [4, 16])], head_bits=8)
    parts = write_served_weights(open_store(strategy), strategy, tmp_path / "out")
    kinds = [(part.kind, part.bits) for part in parts]
    assert kinds == [("embedding", 16), ("layer", 4), ("layer", 16), ("head", 8)]

    def held(folder: Path) -> int:
        return sum(array.nbytes for array in load_file(folder / WHOLE).values())

    assert sum(part.bytes_before for part in parts) == held(model)
    assert sum(part.bytes_after for part in parts) == held(tmp_path / "out")
    # The final norm alone: the matrix was counted as the embedding.
    assert parts[-1].bytes_before == 2 * 24
    assert parts[-1].bytes_after == 2 * 24 + 26 * 24 + 4 * 26 + 2 * 8


def test_a_model_wholly_at_16_bits_is_a_plain_checkpoint(tmp_path: Path) -> None:
    model = _small(tmp_path, "qwen2")
    strategy = make_strategy(model, [((0,), [16, 16])])
    write_served_weights(open_store(strategy), strategy, tmp_path / "out")
    found, expected = (load_file(each / WHOLE) for each in (tmp_path / "out", model))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert "quantization_config" not in read_folder(tmp_path / "out").config


def test_older_prefixes_are_written_as_the_family_s_usual_ones(tmp_path: Path) -> None:
    model = _small(tmp_path, "opt")
    old = {
        name.removeprefix("model."): array
        for name, array in load_file(model / WHOLE).items()
    }
    save_file(old, model / WHOLE)
    strategy = make_strategy(model, [((0,), [8, 8])])
    write_served_weights(open_store(strategy), strategy, tmp_path / "out")
    found = read_folder(tmp_path / "out")
    assert "model.decoder.layers.1.fc2" in found.dense_FC
    assert "model.decoder.embed_tokens.weight" in found.plain


def test_a_family_that_keeps_three_matrices_in_one_is_refused(tmp_path: Path) -> None:
    model = _small(tmp_path, "bloom")
    strategy = make_strategy(model, [((0,), [8, 8])])
    with pytest.raises(
        UnsupportedModelError,
        match=r"bloom keeps query, key and value in one matrix: implemented are",
    ):
        write_served_weights(open_store(strategy), strategy, tmp_path / "out")
