from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.arch.families.config import Config
from llmpq_jax.checkpoint.formats import Linear, QuantizedMatrix
from llmpq_jax.checkpoint.formats.compressed_tensors import read_compressed_tensors
from llmpq_jax.checkpoint.formats.compressed_writer import (
    description,
    packed_tensors,
    scheme_of,
)
from llmpq_jax.checkpoint.formats.quantized_matrix import pack_nibbles
from llmpq_jax.checkpoint.formats.words import (
    centred,
    pack_columns,
    shifted,
    unpack_columns,
)
from tests.checkpoint.formats.writers import pack

MODULE = "model.layers.0.mlp.down_proj"


@st.composite
def matrices(draw: st.DrawFn) -> QuantizedMatrix:
    """Weights of ours, and of other tools with zero points."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits: Literal[4, 8] = draw(st.sampled_from([4, 8]))
    group_size = draw(st.sampled_from([6, 32, 40]))
    num_groups = draw(st.integers(1, 4))
    num_features = 2 * draw(st.integers(1, 9))
    half = 2 ** (bits - 1)
    shape = (group_size * num_groups, num_features)
    values = generator.integers(-half, half, shape, dtype=np.int8)
    zero = generator.integers(-half, half, (num_groups, num_features), dtype=np.int8)
    zero[0, 0] = 1  # or there would be none
    return QuantizedMatrix(
        values=pack_nibbles(values) if bits == 4 else values,
        scale=generator.random((num_groups, num_features), np.float32) + 1e-3,
        bits=bits,
        zero_point=zero if draw(st.booleans()) else None,
    )


@given(matrices())
def test_the_reader_finds_the_integers_and_scales_that_were_written(
    matrix: QuantizedMatrix,
) -> None:
    found = description({MODULE: scheme_of(matrix)}, ["lm_head"])
    form = read_compressed_tensors(Config(path=Path("config.json"), values=found))
    linear = Linear(
        folder=Path("folder"),
        module=MODULE,
        num_contracted=len(matrix.values),
        num_features=matrix.scale.shape[1],
    )
    tensors = packed_tensors(matrix)
    parts = {part.suffix: part for part in form.file_tensors(linear, tensors)}
    assert parts.keys() == tensors.keys()
    for suffix, array in tensors.items():
        assert array.shape == parts[suffix].shape
        assert array.dtype.name in parts[suffix].dtypes
    read = form.matrix(linear, tensors)
    assert read.bits == matrix.bits
    for name in ("values", "scale", "zero_point"):
        expected, got = getattr(matrix, name), getattr(read, name)
        assert (got is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(got, expected)
            assert got.dtype == expected.dtype


@given(st.sampled_from([4, 8]), st.integers(1, 4), st.integers(1, 40), st.data())
def test_words_are_those_of_packing_one_integer_at_a_time(
    bits: Literal[4, 8], num_rows: int, num_columns: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = generator.integers(0, 2**bits, (num_rows, num_columns), dtype=np.uint8)
    words = pack_columns(values, bits)
    np.testing.assert_array_equal(words, pack(values, bits))
    back = unpack_columns(words, bits)
    np.testing.assert_array_equal(back[:, :num_columns], values)
    assert not back[:, num_columns:].any()
    signed = centred(values, bits)
    np.testing.assert_array_equal(shifted(signed, bits), values)


@pytest.mark.parametrize(("num_groups", "strategy"), [(1, "channel"), (2, "group")])
def test_modules_of_the_same_scheme_share_a_group(
    num_groups: int, strategy: str
) -> None:
    def matrix(bits: Literal[4, 8]) -> QuantizedMatrix:
        return QuantizedMatrix(
            values=np.zeros((64, 2 if bits == 4 else 4), np.int8),
            scale=np.ones((num_groups, 4), np.float32),
            bits=bits,
        )

    schemes = {"a": scheme_of(matrix(4)), "b": scheme_of(matrix(8))}
    schemes["c"] = scheme_of(matrix(4))
    found: Any = description(schemes, ["d"])
    groups = list(found["config_groups"].values())
    assert [group["targets"] for group in groups] == [["a", "c"], ["b"]]
    assert [group["weights"]["num_bits"] for group in groups] == [4, 8]
    assert {group["weights"]["strategy"] for group in groups} == {strategy}
    assert found["ignore"] == ["d"]
