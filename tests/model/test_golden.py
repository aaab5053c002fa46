"""Every family against what Hugging Face transformers computed (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.model import (
    DecoderLayer,
    Embedding,
    Head,
    LayerCache,
    cached_context,
    fresh_context,
)
from llmpq_jax.schema.precision import VectorBits

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = [
    *sorted((GOLDEN / "models").iterdir()),
    GOLDEN.parents[1] / "examples" / "tiny-code-lm",
]
# float32 sums of a few hundred terms, in another order than the reference's.
TOLERANCE = 1e-4


class Decoder:
    """The whole model on one device, called layer by layer."""

    def __init__(self, folder: Path) -> None:
        store = WeightStore(CheckpointTensors.open(folder))
        self.architecture = a = store.architecture
        bits: VectorBits = 32 if store.tensors.wide_types else 16
        looked_up = load_weights(store.embedding(bits=bits))
        self.embedding = Embedding(a, looked_up, dtype=jnp.dtype(jnp.float32))
        self.layers = [
            DecoderLayer(a, layer, load_weights(store.layer(layer, bits=bits)))
            for layer in range(a.num_layers)
        ]
        self.head = Head(a, load_weights(store.head(bits=bits)))

    def whole(self, token_BT: np.ndarray) -> np.ndarray:
        """Returns the logits of rows from position 0, in one pass."""

        @jax.jit
        def run(tokens: jax.Array) -> jax.Array:
            context = fresh_context(self.architecture, *tokens.shape)
            hidden = self.embedding(tokens, context.position_BT)
            for layer in self.layers:
                hidden, _ = layer(hidden, None, context)
            return self.head(hidden)

        return np.asarray(run(jnp.asarray(token_BT)))

    def stepwise(self, token_BT: np.ndarray, chunk: int) -> np.ndarray:
        """Returns the same logits through a cache, `chunk` tokens at a time.

        Slots that are not yet written hold junk, which no query may see.
        """
        batch, length = token_BT.shape
        num_slots = length + 5
        caches = [_junk_cache(self.architecture, batch, num_slots) for _ in self.layers]

        @jax.jit
        def run(
            tokens: jax.Array, place: jax.Array, caches: list[LayerCache]
        ) -> tuple[jax.Array, list[LayerCache]]:
            context = cached_context(self.architecture, place, num_slots)
            hidden = self.embedding(tokens, context.position_BT)
            grown = []
            for layer, cache in zip(self.layers, caches, strict=True):
                hidden, memory = layer(hidden, cache, context)
                grown.append(memory)
            return self.head(hidden), grown

        logits = []
        for first in range(0, length, chunk):
            tokens = token_BT[:, first : first + chunk]
            place = np.broadcast_to(first + np.arange(tokens.shape[1]), tokens.shape)
            step_logits, caches = run(jnp.asarray(tokens), jnp.asarray(place), caches)
            logits.append(np.asarray(step_logits))
        return np.concatenate(logits, axis=1)


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def golden(
    request: pytest.FixtureRequest,
) -> tuple[Decoder, list[np.ndarray], list[np.ndarray]]:
    """The model, each row's tokens (prompt and continuation) and their logits."""
    arrays = np.load(GOLDEN / f"{request.param.name}.npz")
    ends = np.cumsum(arrays["prompt_lengths"])
    prompts = np.split(arrays["prompts"], ends[:-1])
    prompt_logits = np.split(arrays["logits_prompt"], ends[:-1])
    rows = [
        np.concatenate([prompt, greedy[:-1]])
        for prompt, greedy in zip(prompts, arrays["tokens_greedy"], strict=True)
    ]
    logits = [
        np.concatenate([first, rest[1:]])
        for first, rest in zip(prompt_logits, arrays["logits_greedy"], strict=True)
    ]
    return Decoder(request.param), rows, logits


def test_one_pass_gives_the_references_logits(
    golden: tuple[Decoder, list[np.ndarray], list[np.ndarray]],
) -> None:
    decoder, rows, expected = golden
    found = decoder.whole(_padded(rows))
    for index, logits in enumerate(expected):
        np.testing.assert_allclose(
            found[index, : len(logits)], logits, atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("chunk", [1, 3])
def test_steps_through_the_cache_give_the_references_logits(
    golden: tuple[Decoder, list[np.ndarray], list[np.ndarray]], chunk: int
) -> None:
    decoder, rows, expected = golden
    tokens = _padded(rows)
    found = decoder.stepwise(tokens, chunk)
    for index, logits in enumerate(expected):
        np.testing.assert_allclose(
            found[index, : len(logits)], logits, atol=TOLERANCE, rtol=0
        )


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return tokens


def _junk_cache(architecture: Architecture, batch: int, num_slots: int) -> LayerCache:
    shape = (batch, num_slots, architecture.num_kv_heads, architecture.head_dim)
    generator = np.random.default_rng(0)
    return LayerCache(
        key=jnp.asarray(100 * generator.standard_normal(shape), jnp.float32),
        value=jnp.asarray(100 * generator.standard_normal(shape), jnp.float32),
    )
