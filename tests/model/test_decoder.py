"""What a profile shows of a layer: the names of its parts."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.tensors import head_tensors, layer_tensors
from llmpq_jax.model import DecoderLayer, Head, fresh_context

GOLDEN = Path(__file__).parents[1] / "golden/models"
SCOPES = ("norm", "qkv", "rope", "attention", "attention_output", "mlp", "head")


def test_profiles_name_the_parts_of_a_layer():
    architecture = read_architecture(min(GOLDEN.glob("*llama*")))

    def draw(specs):
        generator = np.random.default_rng(0)
        return {
            spec.name: jnp.asarray(generator.normal(size=spec.shape), jnp.bfloat16)
            for spec in specs
        }

    layer = DecoderLayer(architecture, 0, draw(layer_tensors(architecture)))
    head = Head(architecture, draw(head_tensors(architecture)))

    def run(hidden):
        context = fresh_context(architecture, *hidden.shape[:2])
        return head(layer(hidden, None, context)[0])

    hidden = jnp.ones((1, 3, architecture.hidden_size))
    text = jax.jit(run).lower(hidden).as_text(debug_info=True)
    for scope in SCOPES:
        assert f"/{scope}/" in text
