"""AutoRound's own format means what its packings mean; every writer's description is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmpq_jax.checkpoint.formats import read_format
from llmpq_jax.errors import CheckpointError, LlmpqError
from tests.checkpoint.formats.one_linear import MODULE, check_meaning, read_linear
from tests.checkpoint.formats.writers import write_awq, write_gptq

WRITERS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("written_descriptions.json").read_text(encoding="utf-8")
)


def _config(**changes: Any) -> dict[str, Any]:
    """Returns what AutoRound 0.15 leaves in config.json."""
    return {
        "autoround_version": "0.15.1",
        "bits": 4,
        "block_name_to_quantize": "model.layers",
        "data_type": "int",
        "enable_quanted_input": False,
        "group_size": 32,
        "packing_format": "auto_round:auto_gptq",
        "quant_method": "auto-round",
        "sym": True,
    } | changes


@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round"])
@pytest.mark.parametrize("packing", ["auto_round:auto_gptq", "auto_round:gptq"])
def test_integers_packed_as_in_gptq_files_are_read(
    tmp_path: Path, packing: str, method: str
) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=32, sym=True, act_order=False
    )
    description = _config(packing_format=packing, quant_method=method)
    matrix = read_linear(tmp_path, written.tensors, description, (64, 8))
    assert matrix.zero_point is None
    check_meaning(matrix, written)


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_integers_packed_as_in_awq_files_are_read(
    tmp_path: Path, is_symmetric: bool
) -> None:
    written = write_awq(
        np.random.default_rng(0),
        64,
        8,
        group_size=32,
        has_zero_points=not is_symmetric,
    )
    description = _config(packing_format="auto_round:auto_awq", sym=is_symmetric)
    check_meaning(read_linear(tmp_path, written.tensors, description, (64, 8)), written)


def test_a_module_has_the_scheme_that_is_its_own(tmp_path: Path) -> None:
    written = write_gptq(
        np.random.default_rng(0),
        64,
        8,
        bits=8,
        group_size=64,
        sym=False,
        act_order=False,
    )
    own = {"bits": 8, "group_size": 64, "sym": False}
    extra = {"lm_head": {"bits": 16, "data_type": "float"}, MODULE: own}
    matrix = read_linear(
        tmp_path, written.tensors, _config(extra_config=extra), (64, 8)
    )
    assert matrix.bits == 8
    check_meaning(matrix, written)


def test_a_quantised_module_that_is_said_to_be_plain_is_refused(tmp_path: Path) -> None:
    written = write_gptq(
        np.random.default_rng(0), 64, 8, group_size=32, sym=True, act_order=False
    )
    extra = {"model.layers.0.mlp.*": {"bits": 16, "data_type": "float"}}
    with pytest.raises(CheckpointError, match="up_proj is quantised, but a rule"):
        read_linear(tmp_path, written.tensors, _config(extra_config=extra), (64, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing_format": None}, r"packing_format: found None, expected a word"),
        (
            {"packing_format": "auto_round:gptqmodel"},
            r"packing_format is 'auto_round:gptqmodel': implemented is 'auto_round:au",
        ),
        ({"bits": 3}, r"bits is 3: implemented is 4 or 8"),
        ({"data_type": "mx_fp"}, r"data_type is 'mx_fp': implemented is 'int'"),
        ({"act_bits": 8}, r"act_bits is 8: implemented is 16 or null"),
        ({"extra_config": ["a"]}, r"extra_config: found \['a'\], expected an object"),
        ({"extra_config": {"a": 4}}, r"extra_config\.a: found 4, expected an object"),
        ({"extra_config": {"(": {}}}, r"extra_config\.\(: found '\(', expected the n"),
        (
            {"extra_config": {"a": {"bits": 8, "data_type": "fp"}}},
            r"extra_config\.a\.data_type is 'fp': implemented is 'int'",
        ),
        (
            {
                "packing_format": "auto_round:auto_awq",
                "extra_config": {"a": {"group_size": 64}},
            },
            r"extra_config is '4 bits by 64': implemented is 4 bits by 32 in AWQ's pac",
        ),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LlmpqError, match=message):
        read_linear(tmp_path, {"qweight": np.zeros(1)}, _config(**changes), (64, 8))


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_descriptions_of_current_writers_are_read(tmp_path: Path, name: str) -> None:
    description = {"quantization_config": WRITERS[name]}
    (tmp_path / "config.json").write_text(json.dumps(description))
    found = read_format(tmp_path)
    assert found is not None
    assert found.marker == "qweight"
