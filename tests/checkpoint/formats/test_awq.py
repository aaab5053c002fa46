"""AWQ files mean to us what they mean to their writer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.checkpoint.formats import Linear, read_format
from llmpq_jax.errors import CheckpointError, LlmpqError
from tests.checkpoint.formats.one_linear import MODULE, check_meaning, read_linear
from tests.checkpoint.formats.writers import BRAIN, HALF, awq_config, write_awq


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 16, 32, 128]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([HALF, BRAIN]),
)
def test_integers_scales_and_zero_points_are_the_file_s(
    seed: int, group_size: int, num_groups: int, num_words: int, dtype: np.dtype
) -> None:
    shape = (group_size * num_groups, 8 * num_words)
    generator = np.random.default_rng(seed)
    written = write_awq(generator, *shape, group_size=group_size, dtype=dtype)
    description = awq_config(group_size=group_size)
    with tempfile.TemporaryDirectory() as folder:
        matrix = read_linear(Path(folder), written.tensors, description, shape)
    assert matrix.bits == 4
    assert matrix.permutation is None
    check_meaning(matrix, written)


def test_older_names_of_the_fields_are_read(tmp_path: Path) -> None:
    written = write_awq(np.random.default_rng(0), 32, 8, group_size=16)
    description = {
        "quant_method": "awq",
        "w_bit": 4,
        "q_group_size": 16,
        "zero_point": True,
        "version": "GEMM",
    }
    matrix = read_linear(tmp_path, written.tensors, description, (32, 8))
    check_meaning(matrix, written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 8}, r"quantization_config\.bits is 8: implemented is 4"),
        ({"version": "gemv"}, r"version is 'gemv': implemented is 'gemm', 'GEMM'"),
        ({"rotation": "hadamard"}, r"rotation is 'hadamard': implemented is null"),
        ({"format": "gemv_fast"}, r"format is 'gemv_fast': implemented is 'gemm'"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LlmpqError, match=message):
        read_linear(tmp_path, {"qweight": np.zeros(1)}, awq_config(**changes), (32, 8))


def test_a_file_without_zero_points_has_8_everywhere(tmp_path: Path) -> None:
    written = write_awq(
        np.random.default_rng(0), 32, 8, group_size=32, has_zero_points=False
    )
    description = awq_config(zero_point=False)
    matrix = read_linear(tmp_path, written.tensors, description, (32, 8))
    assert matrix.zero_point is None
    check_meaning(matrix, written)
    written = write_awq(np.random.default_rng(0), 32, 8, group_size=32)
    with pytest.raises(CheckpointError, match="has zero points other than 8, and"):
        read_linear(tmp_path, written.tensors, description, (32, 8))


def test_features_that_fill_no_words_are_refused(tmp_path: Path) -> None:
    written = write_awq(np.random.default_rng(0), 32, 8, group_size=32)
    read_linear(tmp_path, written.tensors, awq_config(), (32, 8))
    found = read_format(tmp_path)
    assert found is not None
    linear = Linear(folder=tmp_path, module=MODULE, num_contracted=32, num_features=12)
    with pytest.raises(
        CheckpointError, match=r"has 12 features: expected a multiple of"
    ):
        found.file_tensors(linear, ())
