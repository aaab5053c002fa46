"""A checkpoint that is not of its config is refused, with the tensor's name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.open_store import open_store
from llmpq_jax.checkpoint.reader import WHOLE
from llmpq_jax.checkpoint.validate import (
    check_checkpoint,
    plannable_bits,
    rounding_note,
)
from llmpq_jax.checkpoint.writer import write_served_weights
from llmpq_jax.errors import CheckpointError
from llmpq_jax.schema.precision import Bits, HeadBits
from tests.checkpoint.configs import CONFIGS
from tests.support.tiny_models import make_strategy
from tools.random_checkpoints import write_random_checkpoint


def _check(
    folder: Path, name: str, added: dict[str, np.ndarray], dropped: str = ""
) -> None:
    write_random_checkpoint(folder, CONFIGS[name], dtype="float32")
    tensors = load_file(folder / WHOLE) | added
    tensors.pop(dropped, None)
    save_file(tensors, folder / WHOLE)
    check_checkpoint(CheckpointTensors.open(folder))


VECTOR = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("opt", "model.decoder.version"),
        ("bloom", "transformer.h.1.self_attention.masked_bias"),
    ],
)
def test_buffers_and_copies_of_old_files_are_let_be(
    tmp_path: Path, name: str, harmless: str
) -> None:
    _check(tmp_path, name, {harmless: VECTOR})


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("llama", "model.layers.2.mlp.up_proj.weight"),
        ("llama", "model.layers.0.self_attn.q_proj.bias"),
        ("llama", "score.weight"),
        ("qwen2", "model.layers.0.self_attn.o_proj.bias"),
        ("opt", "model.decoder.project_in.weight"),
        ("bloom", "transformer.h.0.self_attention.rotary_emb.weight"),
    ],
)
def test_a_tensor_that_belongs_to_nothing_is_refused(
    tmp_path: Path, name: str, unknown: str
) -> None:
    with pytest.raises(
        CheckpointError,
        match=rf"'{unknown}' belong to nothing in a {name} model of 2 lay",
    ):
        _check(tmp_path, name, {unknown: VECTOR})


def test_many_unknown_tensors_are_counted(tmp_path: Path) -> None:
    unknown = {f"adapter.{number}": VECTOR for number in range(9)}
    with pytest.raises(
        CheckpointError, match=r"'adapter\.3' and 5 more belong to nothing"
    ):
        _check(tmp_path, "llama", unknown)


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(
        CheckpointError,
        match=rf"tensor '{name}' is missing: expected it with shape \[24, 40\]",
    ):
        _check(tmp_path, "llama", {}, dropped=name)


def test_a_missing_head_names_the_key_that_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"'lm_head\.weight' is missing: .* does not tie"
    ):
        _check(tmp_path, "llama", {}, dropped="lm_head.weight")


def test_another_shape_is_named(tmp_path: Path) -> None:
    name = "model.norm.weight"
    with pytest.raises(
        CheckpointError,
        match=rf"'{name}': found shape \[3\], expected \[24\] for a llama",
    ):
        _check(tmp_path, "llama", {name: VECTOR})


def test_integers_are_no_weights(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(
        CheckpointError,
        match=rf"'{name}': found int8, expected one of bfloat16, float16",
    ):
        _check(tmp_path, "llama", {name: np.zeros((40, 24), np.int8)})


def test_checking_a_checkpoint_waits_for_neither_jax_nor_transformers() -> None:
    program = (
        "import sys, llmpq_jax.checkpoint.validate\n"
        "print(sorted({'transformers', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def _mixed(folder: Path, layers: list[Bits], head: HeadBits = 16) -> CheckpointTensors:
    """Writes a checkpoint whose layers are at these bits, and opens it."""
    config = CONFIGS["llama"] | {"num_hidden_layers": len(layers)}
    write_random_checkpoint(folder / "model", config)
    strategy = make_strategy(folder / "model", [((0,), layers)], head_bits=head)
    (folder / "out").mkdir()
    write_served_weights(open_store(strategy), strategy, folder / "out")
    return CheckpointTensors.open(folder / "out")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([16, 16], ((16, 8, 4), (16, 8, 4))),
        ([4, 4], ((16, 4), (16, 4))),
        ([8, 16], ((16, 8), (16,))),
        ([16, 4, 8], ((16,), (16, 4), (16, 8))),
    ],
)
def test_plans_choose_among_the_bits_that_each_layer_can_have(
    tmp_path: Path, layers: list[Bits], expected: tuple[tuple[Bits, ...], ...]
) -> None:
    stored = _mixed(tmp_path, layers)
    assert plannable_bits(stored, head=8) == expected


def test_float32_is_served_at_32_bits_and_what_has_fewer_is_not(
    tmp_path: Path,
) -> None:
    write_random_checkpoint(tmp_path / "wide", CONFIGS["llama"], dtype="float32")
    wide = CheckpointTensors.open(tmp_path / "wide")
    assert set(plannable_bits(wide, head=32)) == {(32, 16, 8, 4)}
    assert rounding_note(wide, (32, 32)) is None
    note = rounding_note(wide, (32, 16))
    assert note is not None
    assert "holds float32 weights, which are rounded to bfloat16" in note
    half = _mixed(tmp_path, [16, 16])
    assert set(plannable_bits(half, head=16)) == {(16, 8, 4)}
    assert rounding_note(half, (16, 16)) is None
    with pytest.raises(
        CheckpointError,
        match="lm_head has no more than 16 bits, the plan asks for 32: expected 16",
    ):
        plannable_bits(half, head=32)


def test_a_head_s_bits_are_checked_before_planning(tmp_path: Path) -> None:
    stored = _mixed(tmp_path, [16, 16], head=8)
    assert plannable_bits(stored, head=16) == ((16,), (16,))
    config = json.loads((stored.reader.folder / "config.json").read_text())
    (group,) = config["quantization_config"]["config_groups"].values()
    group["weights"]["num_bits"] = 4
    (stored.reader.folder / "config.json").write_text(json.dumps(config))
    changed = CheckpointTensors.open(stored.reader.folder)
    with pytest.raises(CheckpointError, match="lm_head holds integers of 4 bits"):
        plannable_bits(changed, head=8)
