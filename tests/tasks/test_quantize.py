"""A written checkpoint serves the same tokens as the strategy it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.checkpoint.open_store import open_store
from llmpq_jax.errors import UnsupportedModelError
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.quantize import STRATEGY, write_checkpoint
from tests.checkpoint.configs import CONFIGS
from tests.checkpoint.test_quantized import FORMATS, write_foreign
from tests.support.tiny_models import make_strategy, write_tiny_model
from tools.random_checkpoints import write_random_checkpoint

PROMPTS = [[5, 99, 3, 200, 17], [42], [7, 7, 7]]
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "vocab_size": 258,
    "max_position_embeddings": 256,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": CONFIGS["llama"] | {"intermediate_size": 128} | _SIZES,
    "llama-tied": CONFIGS["llama"]
    | {"intermediate_size": 96, "tie_word_embeddings": True}
    | _SIZES,
    "opt": CONFIGS["opt"] | {"ffn_dim": 128} | _SIZES,
    "qwen2": CONFIGS["qwen2"] | {"intermediate_size": 128} | _SIZES,
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tokenizer"))


def _model(folder: Path, name: str, tokenizer: Path) -> Path:
    write_random_checkpoint(folder, MODELS[name])
    for file in TOKENIZER:
        shutil.copy(tokenizer / file, folder)
    return folder


def _tokens(strategy: Strategy | Path) -> tuple[list[tuple[int, ...]], np.ndarray]:
    with Pipeline.load(strategy) as pipeline:
        completions = pipeline.generate(PROMPTS, max_new_tokens=8, ignores_eos=True)
        logits = np.asarray(pipeline.score([PROMPTS[0]]))
    return [completion.token_ids for completion in completions], logits


def _write(folder: Path, strategy: Strategy) -> Path:
    write_strategy(folder / "s.toml", strategy)
    write_checkpoint(folder / "s.toml", folder / "out")
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head_bits"),
    [
        ("llama-tied", 8),
        ("qwen2", 16),
        pytest.param("llama", 16, marks=pytest.mark.full),
        pytest.param("opt", 8, marks=pytest.mark.full),
    ],
)
def test_the_new_folder_s_strategy_gives_the_same_tokens_and_logits(
    tmp_path: Path, tokenizer: Path, name: str, head_bits: int
) -> None:
    model = _model(tmp_path / "model", name, tokenizer)
    strategy = make_strategy(
        model, [((0,), [16, 8, 4]), ((1,), [4])], head_bits=head_bits
    )
    out = _write(tmp_path, strategy)
    tokens, logits = _tokens(strategy)
    new_tokens, new_logits = _tokens(out / STRATEGY)
    assert new_tokens == tokens
    np.testing.assert_array_equal(new_logits, logits)


def test_the_folder_may_move_and_names_itself(tmp_path: Path, tokenizer: Path) -> None:
    model = _model(tmp_path / "model", "llama", tokenizer)
    (model / "generation_config.json").write_text('{"eos_token_id": 3}')
    (model / "LICENSE").write_text("free")
    (model / "quantize_config.json.bak").write_text("{}")
    strategy = make_strategy(model, [((0,), [16, 8, 4, 4])])
    out = _write(tmp_path, strategy)
    shutil.rmtree(model)
    moved = out.rename(tmp_path / "moved")
    written = read_strategy(moved / STRATEGY)
    assert 'path = "."' in (moved / STRATEGY).read_text()
    assert written.model.path == str(moved)
    assert written.model.fingerprint != strategy.model.fingerprint
    assert written.bits == strategy.bits
    assert {path.name for path in moved.iterdir()} == {
        *("config.json", "model.safetensors", STRATEGY, *TOKENIZER),
        *("generation_config.json", "LICENSE"),
    }
    tokens, _ = _tokens(moved / STRATEGY)
    assert all(len(each) == 8 for each in tokens)


def test_a_written_checkpoint_can_be_written_again(
    tmp_path: Path, tokenizer: Path
) -> None:
    model = _model(tmp_path / "model", "llama-tied", tokenizer)
    strategy = make_strategy(model, [((0,), [16, 8, 4, 4])], head_bits=8)
    first = _write(tmp_path, strategy)
    written = write_checkpoint(first / STRATEGY, tmp_path / "again")
    assert written.bytes_before == written.bytes_after
    for path in first.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"gptq-act-order"}))
def test_integers_of_other_formats_are_kept(tmp_path: Path, name: str) -> None:
    write, description, bits = FORMATS[name]
    model = write_foreign(tmp_path, write, description)
    strategy = make_strategy(model, [((0,), [bits, 16, bits, bits])])
    out = _write(tmp_path, strategy)
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    stores = open_store(strategy), open_store(read_strategy(out / STRATEGY))
    for layer, layer_bits in enumerate(strategy.bits):
        before, after = (
            load_weights(store.layer(layer, bits=layer_bits)) for store in stores
        )
        # Zero points are leaves where there are any.
        assert jax.tree.structure(after) == jax.tree.structure(before)
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.leaves(after),
            jax.tree.leaves(before),
        )


def test_act_order_is_refused_by_name_and_nothing_written(tmp_path: Path) -> None:
    write, description, bits = FORMATS["gptq-act-order"]
    model = write_foreign(tmp_path, write, description)
    strategy = make_strategy(model, [((0,), [16, 16, bits, bits])])
    message = r"/model: model\.layers\.2\.self_attn\.q_proj has act-order, which newer"
    with pytest.raises(UnsupportedModelError, match=message):
        _write(tmp_path, strategy)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "dense", "s.toml"}
