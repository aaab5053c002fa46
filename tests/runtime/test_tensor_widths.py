"""A stage over several devices computes what one device does, or its width is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.errors import StrategyError
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.precision import Bits, KvBits
from llmpq_jax.tasks.check import fit_stages
from tests.support.same_tokens import logit_tolerance
from tests.support.tiny_models import make_strategy, write_tiny_model

TOKENS = [[5, 99, 3, 200, 17, 42]]
NINE_HEADS = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72}


def _scores(
    model: Path, width: int, bits: Bits, kv_bits: KvBits, *, stepwise: bool = False
) -> np.ndarray:
    num_layers = read_architecture(model).num_layers
    strategy = make_strategy(
        model, [(tuple(range(width)), [bits] * num_layers)], kv_bits=kv_bits
    )
    with Pipeline.load(strategy) as pipeline:
        return np.asarray(pipeline.score(TOKENS, stepwise=stepwise)[0])


@pytest.mark.parametrize(
    ("sizes", "width", "bits", "kv_bits"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, 4, 16, 16),
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, 8, 4, 8),
        ({"num_attention_heads": 4, "num_key_value_heads": 1}, 2, 8, 16),
        (
            {
                "model_type": "qwen2",
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
            4,
            16,
            16,
        ),
        (NINE_HEADS, 3, 16, 16),
    ],
)
def test_devices_beyond_the_key_value_heads_have_copies(
    tmp_path: Path, sizes: dict[str, Any], width: int, bits: Bits, kv_bits: KvBits
) -> None:
    sizes = {"intermediate_size": 96, "num_hidden_layers": 2} | sizes
    model = write_tiny_model(tmp_path / "model", **sizes)
    whole = _scores(model, 1, bits, kv_bits)
    tolerance = 2 * logit_tolerance(read_architecture(model), whole)
    for stepwise in (False, True):
        cut = _scores(model, width, bits, kv_bits, stepwise=stepwise)
        np.testing.assert_allclose(cut, whole, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "width", "message"),
    [
        (NINE_HEADS, 2, "9 query heads, 3 key-value heads and .* evenly: .* among 1;"),
        ({"intermediate_size": 98}, 4, "an MLP of width 98 evenly: .* among 1;"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 2},
            3,
            "has 3 devices, which do not share 4 query heads",
        ),
    ],
)
def test_a_width_that_cannot_be_served_is_refused_by_name(
    tmp_path: Path, sizes: dict[str, Any], width: int, message: str
) -> None:
    model = write_tiny_model(tmp_path / "model", **sizes)
    num_layers = read_architecture(model).num_layers
    strategy = make_strategy(model, [(tuple(range(width)), [16] * num_layers)])
    for use in (Pipeline.load, fit_stages):
        with pytest.raises(StrategyError, match=message):
            use(strategy)


def test_an_odd_mlp_is_served_on_one_device(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", intermediate_size=97)
    assert np.isfinite(_scores(model, 1, 8, 16)).all()
