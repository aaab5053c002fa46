"""GPTQ files mean to us what they mean to their writer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.checkpoint.formats import Linear, read_format
from llmpq_jax.errors import CheckpointError, LlmpqError
from tests.checkpoint.formats.one_linear import MODULE, check_meaning, read_linear
from tests.checkpoint.formats.writers import BRAIN, HALF, gptq_config, write_gptq


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 8]),
    st.sampled_from([8, 16, 32, 64]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["gptq", "gptq_v2"]),
    st.sampled_from([HALF, BRAIN, np.dtype(np.float32)]),
)
def test_integers_scales_and_order_are_the_file_s(
    seed: int,
    bits: Literal[4, 8],
    group_size: int,
    num_groups: int,
    num_words: int,
    sym: bool,
    act_order: bool,
    version: Literal["gptq", "gptq_v2"],
    dtype: np.dtype,
) -> None:
    shape = (group_size * num_groups, num_words * 32 // bits)
    written = write_gptq(
        np.random.default_rng(seed),
        *shape,
        bits=bits,
        group_size=group_size,
        sym=sym,
        act_order=act_order,
        version=version,
        dtype=dtype,
    )
    description = gptq_config(
        bits=bits,
        group_size=group_size,
        sym=sym,
        desc_act=act_order,
        checkpoint_format=version,
    )
    with tempfile.TemporaryDirectory() as folder:
        matrix = read_linear(Path(folder), written.tensors, description, shape)
    assert matrix.bits == bits
    assert matrix.scale.dtype == np.float32
    assert matrix.zero_point is None or not sym
    if not act_order:
        assert matrix.permutation is None
    check_meaning(matrix, written)


def test_a_file_without_g_idx_has_its_groups_in_order(tmp_path: Path) -> None:
    written = write_gptq(
        np.random.default_rng(0),
        64,
        8,
        group_size=32,
        sym=False,
        act_order=False,
        with_g_idx=False,
    )
    description = gptq_config(sym=False)
    check_meaning(read_linear(tmp_path, written.tensors, description, (64, 8)), written)


def test_a_group_of_minus_one_is_all_rows(tmp_path: Path) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=64, sym=True, act_order=False
    )
    description = gptq_config(group_size=-1)
    matrix = read_linear(tmp_path, written.tensors, description, (64, 8))
    assert matrix.scale.shape == (1, 8)
    check_meaning(matrix, written)


def test_the_first_rule_that_matches_says_bits_and_groups(tmp_path: Path) -> None:
    written = write_gptq(
        np.random.default_rng(0),
        64,
        8,
        bits=8,
        group_size=16,
        sym=False,
        act_order=False,
    )
    rules = {
        r"-:.*\.down_proj": {},
        r"+:.*\.layers\.0\.mlp": {"bits": 8, "group_size": 16},
        r".*up_proj": {"bits": 4},
    }
    description = gptq_config(dynamic=rules, sym=False)
    matrix = read_linear(tmp_path, written.tensors, description, (64, 8))
    assert matrix.bits == 8
    check_meaning(matrix, written)


def test_a_quantised_module_that_a_rule_leaves_out_is_refused(tmp_path: Path) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=32, sym=True, act_order=False
    )
    description = gptq_config(dynamic={r"-:.*up_proj": {}})
    with pytest.raises(CheckpointError, match=r"up_proj is quantised, but a rule"):
        read_linear(tmp_path, written.tensors, description, (64, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, r"quantization_config\.bits is 3: implemented is 4 or 8"),
        ({"bits": 2}, r"bits is 2: implemented is 4 or 8; choose another"),
        ({"bits": "4"}, r"bits: found '4', expected a whole number"),
        ({"group_size": 0}, r"group_size: found 0, expected a whole number from 1"),
        (
            {"checkpoint_format": "marlin"},
            r"checkpoint_format is 'marlin': implemented is 'gptq', 'gptq_v2'",
        ),
        ({"format": "bitblas"}, r"checkpoint_format is 'bitblas': implemented is"),
        ({"is_marlin_format": True}, r"is_marlin_format is True: implemented is False"),
        ({"pack_dtype": "int16"}, r"pack_dtype is 'int16': implemented is 'int32'"),
        ({"adapter": {"rank": 8}}, r"adapter is \{'rank': 8\}: implemented is null"),
        ({"rotation": "hadamard"}, r"rotation is 'hadamard': implemented is null"),
        ({"method": "qqq"}, r"method is 'qqq': implemented is 'gptq' or null"),
        ({"data_type": "mx_fp"}, r"data_type is 'mx_fp': implemented is 'int'"),
        ({"act_bits": 8}, r"act_bits is 8: implemented is 16 or null"),
        ({"dynamic": ["a"]}, r"dynamic: found \['a'\], expected an object of patterns"),
        ({"dynamic": {"a": 4}}, r"dynamic\.a: found 4, expected an object"),
        ({"dynamic": {"(": {}}}, r"dynamic\.\(: found '\(', expected a pattern"),
        ({"dynamic": {"a": {"bits": 3}}}, r"dynamic\.a\.bits is 3: implemented is 4"),
        (
            {"dynamic": {"a": {"rotation": "hadamard"}}},
            r"dynamic\.a\.rotation is 'hadamard': implemented is null",
        ),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LlmpqError, match=message):
        read_linear(tmp_path, {"qweight": np.zeros(1)}, gptq_config(**changes), (64, 8))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("stored", "said"), [("gptq_v2", "gptq"), ("gptq", "gptq_v2")])
def test_a_symmetric_file_with_the_zero_points_of_the_other_version_is_refused(
    tmp_path: Path,
    bits: Literal[4, 8],
    stored: Literal["gptq", "gptq_v2"],
    said: str,
) -> None:
    written = write_gptq(
        np.random.default_rng(0),
        64,
        8,
        bits=bits,
        group_size=32,
        sym=True,
        act_order=False,
        version=stored,
    )
    description = gptq_config(bits=bits, sym=True, checkpoint_format=said)
    message = rf'"sym": true: .*; write "checkpoint_format": "{stored}", which these'
    with pytest.raises(CheckpointError, match=message):
        read_linear(tmp_path, written.tensors, description, (64, 8))


def test_a_symmetric_file_with_zero_points_of_its_own_is_refused(
    tmp_path: Path,
) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=32, sym=False, act_order=False
    )
    with pytest.raises(CheckpointError, match=r"zero points other than half .*; fetch"):
        read_linear(tmp_path, written.tensors, gptq_config(sym=True), (64, 8))


def _linear(tmp_path: Path, num_contracted: int, num_features: int) -> Linear:
    return Linear(
        folder=tmp_path,
        module=MODULE,
        num_contracted=num_contracted,
        num_features=num_features,
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (60, 8),
            r"has shape \[60, 8\]: expected multiples of 8, the integers of a word",
        ),
        ((64, 12), r"has shape \[64, 12\]: expected multiples of 8"),
        ((48, 8), r"has 48 rows in groups of 32: implemented are groups that divide"),
    ],
)
def test_shapes_that_the_format_cannot_have_are_refused(
    tmp_path: Path, shape: tuple[int, int], message: str
) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=32, sym=True, act_order=False
    )
    read_linear(tmp_path, written.tensors, gptq_config(), (64, 8))
    found = read_format(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match=message):
        found.file_tensors(_linear(tmp_path, *shape), ())


@pytest.mark.parametrize(
    ("suffix", "index", "value", "message"),
    [
        ("g_idx", 0, 1, r"has groups of 31 to 33 rows: implemented are groups of one"),
        ("g_idx", 0, 2, r"names groups 0 to 2: expected 0 to 1"),
        ("g_idx", 0, -1, r"names groups -1 to 1: expected 0 to 1"),
        ("scales", (0, 0), np.inf, r"has a scale that is no finite number; fetch"),
    ],
)
def test_damaged_groups_and_scales_are_refused(
    tmp_path: Path, suffix: str, index: Any, value: Any, message: str
) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=32, sym=True, act_order=False
    )
    written.tensors[suffix][index] = value
    with pytest.raises(CheckpointError, match=message):
        read_linear(tmp_path, written.tensors, gptq_config(), (64, 8))
