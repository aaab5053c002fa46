"""A quantised checkpoint is served as the model of its dequantised weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.checkpoint.reader import WHOLE
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.checkpoint.validate import (
    check_bits,
    check_checkpoint,
    kept_matrices,
    plannable_bits,
)
from llmpq_jax.errors import CheckpointError, StrategyError, UnsupportedModelError
from llmpq_jax.quant import QArray
from llmpq_jax.runtime import Pipeline
from tests.checkpoint.configs import CONFIGS
from tests.checkpoint.formats.writers import (
    HALF,
    Written,
    awq_config,
    compressed_config,
    gptq_config,
    write_awq,
    write_compressed,
    write_gptq,
)
from tests.support.same_tokens import logit_tolerance
from tests.support.tiny_models import make_strategy, write_tiny_model
from tools.random_checkpoints import write_random_checkpoint

Write = Callable[[np.random.Generator, int, int], Written]
TOKENS = [[5, 99, 3, 200, 17, 42]]
DOWN = "model.layers.1.mlp.down_proj"


def _gptq(*, bits: Literal[4, 8] = 4, **choices: Any) -> Write:
    chosen: Any = {"sym": True, "act_order": False} | choices
    return lambda generator, c, f: write_gptq(
        generator, c, f, bits=bits, group_size=32, are_powers=True, **chosen
    )


def _compressed(**choices: Any) -> Write:
    return lambda generator, c, f: write_compressed(
        generator, c, f, dtype=HALF, are_powers=True, **choices
    )


FORMATS: dict[str, tuple[Write, dict[str, Any], Literal[4, 8]]] = {
    "gptq": (_gptq(), gptq_config(), 4),
    "gptq-8": (_gptq(bits=8), gptq_config(bits=8), 8),
    "gptq-asymmetric": (_gptq(sym=False), gptq_config(sym=False), 4),
    "gptq-act-order": (
        _gptq(sym=False, act_order=True),
        gptq_config(sym=False, desc_act=True),
        4,
    ),
    "awq": (
        lambda generator, c, f: write_awq(
            generator, c, f, group_size=32, are_powers=True
        ),
        awq_config(),
        4,
    ),
    "compressed-4": (_compressed(), compressed_config(), 4),
    "compressed-8": (
        _compressed(bits=8, strategy="channel", storage="int-quantized"),
        compressed_config(
            num_bits=8, strategy="channel", group_size=None, storage="int-quantized"
        ),
        8,
    ),
}


def write_foreign(folder: Path, write: Write, description: dict[str, Any]) -> Path:
    """Writes a quantised model, and in `dense` its dequantised twin.

    Scales are powers of two, so that float16 holds the dequantised weights exactly.
    """
    model = write_tiny_model(folder / "model")
    dense = write_tiny_model(folder / "dense")
    generator = np.random.default_rng(0)
    tensors = load_file(model / WHOLE)
    twin = dict(tensors)
    for name in list(tensors):
        module = name.removesuffix(".weight")
        if module.endswith("_proj"):
            features, inputs = tensors.pop(name).shape
            written = write(generator, inputs, features)
            twin[name] = np.ascontiguousarray(written.dense_FC, HALF)
            assert (twin[name].astype(np.float64) == written.dense_FC).all()
            for suffix, array in written.tensors.items():
                tensors[f"{module}.{suffix}"] = array
    save_file(tensors, model / WHOLE)
    save_file(twin, dense / WHOLE)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = description
    (model / "config.json").write_text(json.dumps(config))
    return model


@pytest.fixture(scope="module", params=sorted(FORMATS))
def foreign(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Literal[4, 8]]:
    write, description, bits = FORMATS[request.param]
    return write_foreign(tmp_path_factory.mktemp("foreign"), write, description), bits


def _open(model: Path) -> WeightStore:
    return WeightStore(CheckpointTensors.open(model))


def _logits(model: Path, bits: Any, devices: tuple[int, ...] = (0,)) -> np.ndarray:
    strategy = make_strategy(model, [(devices, [bits] * 4)])
    with Pipeline.load(strategy) as pipeline:
        return np.asarray(pipeline.score(TOKENS)[0])


def test_its_own_bits_give_the_logits_of_the_dequantised_model(
    foreign: tuple[Path, Literal[4, 8]],
) -> None:
    model, bits = foreign
    expected = _logits(model.parent / "dense", 16)
    found = _logits(model, bits)
    tolerance = 2 * logit_tolerance(read_architecture(model), expected)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_at_16_bits_the_dequantised_matrices_are_served(
    foreign: tuple[Path, Literal[4, 8]],
) -> None:
    model, _ = foreign
    loaded, twin = (
        load_weights(_open(path).layer(1, bits=16))
        for path in (model, model.parent / "dense")
    )
    assert jax.tree.map(jnp.array_equal, loaded, twin) == dict.fromkeys(twin, True)


def test_its_own_bits_and_16_are_allowed_and_others_refused(
    foreign: tuple[Path, Literal[4, 8]],
) -> None:
    model, bits = foreign
    stored = CheckpointTensors.open(model)
    check_checkpoint(stored)
    assert plannable_bits(stored, head=16) == ((16, bits),) * 4
    check_bits(stored, layers=(bits, 16, bits, 16), head=8)
    other = 12 - bits
    message = rf"layers\.2\.self_attn\.q_proj holds integers of {bits} bits \(.*\), the plan asks for {other}: expected {bits} or 16"
    layers: Any = (16, 16, other, 16)
    with pytest.raises(CheckpointError, match=message):
        check_bits(stored, layers=layers, head=16)
    with pytest.raises(CheckpointError, match=rf"the plan asks for {other}"):
        load_weights(_open(model).layer(0, bits=layers[2]))


@pytest.mark.parametrize("name", ["gptq-asymmetric", "compressed-8"])
def test_a_mesh_cuts_it_without_changing_what_it_computes(
    tmp_path: Path, name: str
) -> None:
    write, description, bits = FORMATS[name]
    model = write_foreign(tmp_path, write, description)
    whole, cut = _logits(model, bits), _logits(model, bits, devices=(0, 1))
    tolerance = 2 * logit_tolerance(read_architecture(model), whole)
    np.testing.assert_allclose(cut, whole, atol=tolerance, rtol=0)


@pytest.fixture
def gptq(tmp_path: Path) -> Path:
    write, description, _ = FORMATS["gptq"]
    return write_foreign(tmp_path, write, description)


def _change(model: Path, added: dict[str, np.ndarray], dropped: str = "") -> None:
    tensors = load_file(model / WHOLE) | added
    tensors.pop(dropped, None)
    save_file(tensors, model / WHOLE)


def _check(model: Path) -> None:
    check_checkpoint(CheckpointTensors.open(model))


def test_act_order_is_not_cut_over_a_mesh(tmp_path: Path) -> None:
    write, description, bits = FORMATS["gptq-act-order"]
    model = write_foreign(tmp_path, write, description)
    with pytest.raises(StrategyError, match=r"act-order\), and a stage of 2 devices"):
        _logits(model, bits, devices=(0, 1))


@pytest.fixture
def keeps_down(gptq: Path) -> Path:
    """A checkpoint that keeps one matrix of layer 1 at 16 bits."""
    twin = load_file(gptq.parent / "dense" / WHOLE)
    tensors = {
        name: array
        for name, array in load_file(gptq / WHOLE).items()
        if not name.startswith(f"{DOWN}.")
    }
    save_file(tensors | {f"{DOWN}.weight": twin[f"{DOWN}.weight"]}, gptq / WHOLE)
    return gptq


def test_a_plain_matrix_among_quantised_ones_is_kept_unless_asked(
    keeps_down: Path,
) -> None:
    _check(keeps_down)
    stored = CheckpointTensors.open(keeps_down)
    assert kept_matrices(stored) == (DOWN,)
    plannable = plannable_bits(stored, head=8)
    assert plannable == ((16, 4), (16,), (16, 4), (16, 4))
    message = r"layers\.1\.mlp\.down_proj is kept at 16 bits \(the others are gptq\), the plan asks for 4: expected 16"
    with pytest.raises(CheckpointError, match=message):
        check_bits(stored, layers=(4, 4, 4, 4), head=8)
    with pytest.raises(CheckpointError, match=message):
        load_weights(_open(keeps_down).layer(1, bits=4))


def test_a_kept_matrix_is_rounded_on_request(keeps_down: Path) -> None:
    stored = CheckpointTensors.open(keeps_down, rounds_unquantized=True)
    plannable = plannable_bits(stored, head=8)
    assert plannable == ((16, 4),) * 4
    store = WeightStore(stored)
    assert isinstance(load_weights(store.layer(1, bits=4))["mlp.down.weight"], QArray)


def test_a_plan_serves_kept_matrices_as_they_are(keeps_down: Path) -> None:
    expected = _logits(keeps_down.parent / "dense", 16)
    strategy = make_strategy(keeps_down, [((0,), [4, 16, 4, 4])])
    with Pipeline.load(strategy) as pipeline:
        found = np.asarray(pipeline.score(TOKENS)[0])
    tolerance = 2 * logit_tolerance(read_architecture(keeps_down), expected)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_a_quantised_embedding_is_refused_by_name(gptq: Path) -> None:
    table = "model.embed_tokens"
    _change(gptq, {f"{table}.qweight": np.zeros((3, 8), np.int32)}, f"{table}.weight")
    with pytest.raises(CheckpointError, match=r"embed_tokens is quantised \(gptq\)"):
        _check(gptq)


@pytest.mark.parametrize(
    ("added", "dropped", "message"),
    [
        ({}, f"{DOWN}.scales", r"down_proj\.scales' is missing: expected bfloat16 or"),
        (
            {f"{DOWN}.qzeros": np.zeros((3, 8), np.int32)},
            "",
            r"qzeros': found int32 \[3, 8\], expected int32 \[4, 8\] for a gptq matrix",
        ),
        (
            {f"{DOWN}.scales": np.zeros((4, 64), np.int32)},
            "",
            r"scales': found int32 \[4, 64\], expected bfloat16 or float16",
        ),
        (
            {f"{DOWN}.weight_scale": np.zeros(1, np.float32)},
            "",
            r"'model\.layers\.1\.mlp\.down_proj\.weight_scale' belong to nothing",
        ),
        (
            {f"{DOWN}.bias": np.ones(64, np.float16)},
            "",
            r"down_proj\.bias' belong to nothing",
        ),
    ],
)
def test_tensors_that_are_not_as_the_format_says_are_refused(
    gptq: Path, added: dict[str, np.ndarray], dropped: str, message: str
) -> None:
    _change(gptq, added, dropped)
    with pytest.raises(CheckpointError, match=message):
        _check(gptq)


def test_a_bias_of_zeros_is_let_be(gptq: Path) -> None:
    _change(gptq, {f"{DOWN}.bias": np.zeros(64, np.float16)})
    _check(gptq)


def test_another_way_of_quantising_is_refused_by_name(gptq: Path) -> None:
    config = json.loads((gptq / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (gptq / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UnsupportedModelError, match=r"quant_method is 'bitsandbytes': implemented is"
    ):
        _check(gptq)


def test_quantize_config_json_of_older_files_is_read(gptq: Path) -> None:
    config = json.loads((gptq / "config.json").read_text())
    description = config.pop("quantization_config")
    del description["quant_method"]
    (gptq / "config.json").write_text(json.dumps(config))
    (gptq / "quantize_config.json").write_text(json.dumps(description))
    _check(gptq)


def test_another_description_is_another_model(gptq: Path) -> None:
    before = model_fingerprint(gptq)
    config = json.loads((gptq / "config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    (gptq / "config.json").write_text(json.dumps(config))
    assert model_fingerprint(gptq) != before


def test_bloom_s_fused_matrix_is_refused_quantised(tmp_path: Path) -> None:
    config = CONFIGS["bloom"] | {"quantization_config": gptq_config()}
    write_random_checkpoint(tmp_path, config, dtype="float32")
    fused = "transformer.h.0.self_attention.query_key_value"
    _change(tmp_path, {f"{fused}.qweight": np.zeros((3, 72), np.int32)})
    with pytest.raises(
        CheckpointError, match=r"holds query, key and value quantised in one matrix"
    ):
        _check(tmp_path)
