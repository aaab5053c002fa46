"""compressed-tensors files mean to us what they mean to their writer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import CheckpointError, LlmpqError
from tests.checkpoint.formats.one_linear import MODULE, check_meaning, read_linear
from tests.checkpoint.formats.writers import (
    BRAIN,
    HALF,
    compressed_config,
    write_compressed,
)

Strategy = Literal["group", "channel", "tensor"]
Storage = Literal["pack-quantized", "int-quantized"]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 8]),
    st.sampled_from(["group", "channel", "tensor"]),
    st.sampled_from(["pack-quantized", "int-quantized"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([3, 8, 16, 32]),
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([HALF, BRAIN, np.dtype(np.float32)]),
)
def test_integers_scales_and_zero_points_are_the_file_s(
    seed: int,
    bits: Literal[4, 8],
    strategy: Strategy,
    storage: Storage,
    symmetric: bool,
    act_order: bool,
    group_size: int,
    num_groups: int,
    num_pairs: int,
    dtype: np.dtype,
) -> None:
    act_order = act_order and strategy == "group"
    # Neither axis need fill its last word.
    shape = (group_size * num_groups, 2 * num_pairs)
    written = write_compressed(
        np.random.default_rng(seed),
        *shape,
        bits=bits,
        strategy=strategy,
        group_size=group_size,
        symmetric=symmetric,
        act_order=act_order,
        storage=storage,
        dtype=dtype,
    )
    description = compressed_config(
        storage=storage,
        num_bits=bits,
        strategy=strategy,
        group_size=group_size if strategy == "group" else None,
        symmetric=symmetric,
        actorder="group" if act_order else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        matrix = read_linear(Path(folder), written.tensors, description, shape)
    assert matrix.bits == bits
    assert matrix.zero_point is None or not symmetric
    if not act_order:
        assert matrix.permutation is None
    check_meaning(matrix, written)


@pytest.mark.parametrize("actorder", ["weight", "static"])
def test_an_order_of_weights_alone_leaves_groups_as_they_are(
    tmp_path: Path, actorder: str
) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 8)
    description = compressed_config(actorder=actorder)
    check_meaning(read_linear(tmp_path, written.tensors, description, (64, 8)), written)


@pytest.mark.parametrize(
    ("strategy", "group_size"), [("group", 32), ("channel", -1), ("tensor", None)]
)
def test_a_strategy_that_is_not_said_follows_from_the_group_size(
    tmp_path: Path, strategy: Strategy, group_size: int | None
) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 8, strategy=strategy)
    description = compressed_config(strategy=None, group_size=group_size)
    check_meaning(read_linear(tmp_path, written.tensors, description, (64, 8)), written)


@pytest.mark.parametrize(
    "targets",
    [
        ["model.layers.0.mlp.up_proj"],
        ["re:.*up_proj$"],
        ["q_proj", r"re:model\.layers\.0\."],
    ],
)
def test_a_module_s_name_comes_before_patterns_and_those_before_its_class(
    tmp_path: Path, targets: list[str]
) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 8, bits=8)
    description = compressed_config(num_bits=8, targets=targets)
    every = compressed_config()["config_groups"]["group_0"]
    four = every | {"targets": ["Linear", "re:.*other"]}
    description["config_groups"] = {"a": four} | description["config_groups"]
    matrix = read_linear(tmp_path, written.tensors, description, (64, 8))
    assert matrix.bits == 8
    check_meaning(matrix, written)


def test_a_group_s_own_format_counts(tmp_path: Path) -> None:
    written = write_compressed(
        np.random.default_rng(0), 64, 8, bits=8, storage="int-quantized"
    )
    description = compressed_config(num_bits=8, storage="mixed-precision")
    description["config_groups"]["group_0"]["format"] = "int-quantized"
    check_meaning(read_linear(tmp_path, written.tensors, description, (64, 8)), written)


def _changed(path: str, value: Any) -> dict[str, Any]:
    """Returns a description with one field replaced."""
    description = compressed_config()
    *inner, last = path.split(".")
    target: Any = description
    for key in inner:
        target = target[key]
    target[last] = value
    return description


GROUP = "config_groups.group_0"
DYNAMIC = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "format",
            "float-quantized",
            r"format is 'float-quantized': implemented is 'p",
        ),
        ("format", "marlin-24", r"format is 'marlin-24': implemented is 'pack-quantiz"),
        ("quantization_status", "frozen", r"status is 'frozen': implemented is 'compr"),
        ("kv_cache_scheme", {"num_bits": 8}, r"kv_cache_scheme is \{'num_bits': 8\}"),
        (
            "sparsity_config",
            {"format": "sparse-24-bitmask"},
            r"sparsity_config\.format is 'sparse-24-bitmask': implemented is 'dense'",
        ),
        ("transform_config", {"a": 1}, r"transform_config is \{'a': 1\}: implemented"),
        (
            "config_groups",
            {},
            r"config_groups: found \{\}, expected an object of group",
        ),
        (
            "config_groups.group_0",
            3,
            r"config_groups\.group_0: found 3, expected an ob",
        ),
        (
            f"{GROUP}.input_activations",
            DYNAMIC,
            r"group_0\.input_activations is \{.*\}: implemented is null",
        ),
        (f"{GROUP}.output_activations", DYNAMIC, r"output_activations is \{"),
        (f"{GROUP}.targets", "Linear", r"targets: found 'Linear', expected a list of"),
        (f"{GROUP}.targets", ["re:("], r"targets: found 're:\(', expected a pattern"),
        (f"{GROUP}.weights", None, r"weights: found None, expected an object"),
        (f"{GROUP}.weights.num_bits", 3, r"weights\.num_bits is 3: implemented is 4 o"),
        (f"{GROUP}.weights.type", "float", r"type is 'float': implemented is 'int'"),
        (f"{GROUP}.weights.strategy", "block", r"strategy is 'block': implemented is"),
        (f"{GROUP}.weights.dynamic", True, r"weights\.dynamic is True: implemented is"),
        (f"{GROUP}.weights.actorder", "row", r"actorder is 'row': implemented is 'wei"),
        (
            f"{GROUP}.weights.block_structure",
            [128, 128],
            r"block_structure is \[128, 128\]: implemented is null",
        ),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    with pytest.raises(LlmpqError, match=message):
        read_linear(
            tmp_path, {"weight_scale": np.zeros(1)}, _changed(path, value), (64, 8)
        )


@pytest.mark.parametrize(
    ("targets", "which"),
    [
        # Of patterns the first by its text counts, wherever its group stands.
        ((["re:.*up_proj"], ["re:.*mlp.*"]), 1),
        ((["re:.*mlp.*"], ["re:.*up_proj"]), 0),
        ((["re:.*up_proj"], [MODULE]), 1),
        ((["Linear"], ["re:.*up_proj"]), 1),
        ((["Linear"], ["Linear"]), 1),
    ],
)
def test_overlapping_groups_count_as_in_the_library(
    tmp_path: Path, targets: tuple[list[str], list[str]], which: int
) -> None:
    bits = 8 if which else 4
    written = write_compressed(
        np.random.default_rng(0), 64, 8, bits=bits, strategy="channel"
    )
    description = compressed_config(
        targets=targets[0], strategy="channel", group_size=None
    )
    other = compressed_config(
        targets=targets[1], num_bits=8, strategy="channel", group_size=None
    )
    description["config_groups"]["group_1"] = other["config_groups"]["group_0"]
    matrix = read_linear(tmp_path, written.tensors, description, (64, 8))
    assert matrix.bits == bits
    check_meaning(matrix, written)


def test_a_module_that_no_group_names_is_refused(tmp_path: Path) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 8)
    description = compressed_config(targets=["re:.*down_proj"])
    with pytest.raises(
        CheckpointError, match=r"up_proj is quantised, but no group unde"
    ):
        read_linear(tmp_path, written.tensors, description, (64, 8))


def test_a_weight_shape_that_is_another_is_refused(tmp_path: Path) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 8)
    written.tensors["weight_shape"][0] = 16
    with pytest.raises(
        CheckpointError, match=r"weight_shape \[16, 64\]: expected \[8, 6"
    ):
        read_linear(tmp_path, written.tensors, compressed_config(), (64, 8))


def test_integers_beyond_their_bits_are_refused(tmp_path: Path) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 8, storage="int-quantized")
    written.tensors["weight"][0, 0] = 8
    description = compressed_config(storage="int-quantized")
    with pytest.raises(
        CheckpointError, match=r"integers beyond 4 bits: expected −8 to 7"
    ):
        read_linear(tmp_path, written.tensors, description, (64, 8))


def test_an_odd_number_of_features_of_4_bits_is_refused(tmp_path: Path) -> None:
    written = write_compressed(np.random.default_rng(0), 64, 7)
    with pytest.raises(
        CheckpointError, match=r"has 7 features of 4 bits: implemented ar"
    ):
        read_linear(tmp_path, written.tensors, compressed_config(), (64, 7))
