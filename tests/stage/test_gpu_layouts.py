"""Stages with the weights a GPU would hold: the same logits, and a program for CUDA."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.kernels import GroupArray
from llmpq_jax.model import make_cache
from llmpq_jax.runtime import Pipeline
from llmpq_jax.stage.compiled import StageProgram
from llmpq_jax.stage.sampling import greedy_rows
from tests.support.local_workers import local_workers
from tests.support.same_tokens import logit_tolerance
from tests.support.tiny_models import make_strategy, write_tiny_model

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
NUM_MATRICES = 7
TOKENS = list(range(40, 70))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), **SIZES)


def _served_as_on(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("llmpq_jax.kernels.layout.device_kernel_path", lambda _: path)


def _programs(pipeline: Pipeline) -> list[StageProgram]:
    return [worker.program for worker in local_workers(pipeline)]


def _weights(program: StageProgram) -> list[GroupArray]:
    state = jax.tree.unflatten(program.tree, program.leaves)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, GroupArray))
    return [node for node in nodes if isinstance(node, GroupArray)]


@pytest.mark.parametrize(
    ("path", "devices"),
    [
        ("pallas-sm80", (0, 1)),
        ("xla-sm70", (0,)),
        pytest.param("pallas-sm80", (0,), marks=pytest.mark.full),
        pytest.param("xla-sm70", (0, 1), marks=pytest.mark.full),
    ],
)
def test_a_model_in_groups_gives_the_logits_of_plain_xla(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    devices: tuple[int, ...],
) -> None:
    # One layer's int8 has one scale per feature: with Triton it is XLA's own to fuse.
    strategy = make_strategy(folder, [(devices, [4, 8])], prefill=1, decode=1)
    logits = {}
    for served_as in ("xla", path):
        _served_as_on(monkeypatch, served_as)
        with Pipeline.load(strategy) as pipeline:
            (program,) = _programs(pipeline)
            num_grouped = len(_weights(program))
            logits[served_as] = np.asarray(pipeline.score([TOKENS])[0])
            architecture = pipeline.architecture
        layers = {"xla": 0, "pallas-sm80": 1, "xla-sm70": 2}[served_as]
        assert num_grouped == layers * NUM_MATRICES
    tolerance = 2 * logit_tolerance(architecture, logits["xla"])
    assert np.abs(logits[path] - logits["xla"]).max() <= tolerance


@pytest.mark.parametrize("activations", ["bfloat16", "float16"])
@pytest.mark.parametrize("num_rows", [1, 32])
def test_a_stages_decode_lowers_for_cuda(
    folder: Path, monkeypatch: pytest.MonkeyPatch, activations: str, num_rows: int
) -> None:
    _served_as_on(monkeypatch, "pallas-sm80")
    strategy = make_strategy(folder, [((0,), [4, 4])], prefill=1, decode=1)
    precision = replace(strategy.precision, activations=activations)
    strategy = replace(strategy, precision=precision)
    with Pipeline.load(strategy) as pipeline:
        (program,) = _programs(pipeline)
        describe = program.sharding.describe
        dtype = jnp.dtype(activations)
        cache = tuple(
            make_cache(
                partial(jax.ShapeDtypeStruct, sharding=program.sharding.replicated),
                pipeline.architecture,
                num_rows=num_rows,
                num_slots=64,
                dtype=dtype,
                kv_bits=16,
            )
            for _ in range(2)
        )
        packed = program.pack(np.zeros(num_rows, np.int32), greedy_rows(num_rows))
        arguments = (
            describe((num_rows,), jnp.int32),
            cache,
            describe(packed.shape, packed.dtype),
        )
        jitted = program.jitted("decode", "tokens", arguments)
        lowered = jitted.trace(program.leaves, *arguments).lower(
            lowering_platforms=("cuda",)
        )
    text = lowered.as_text()
    assert text.count("__gpu$xla.gpu.triton") == 2 * NUM_MATRICES
    hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    for shape in (f"{hidden}x{hidden}", f"{hidden}x{inner}", f"{inner}x{hidden}"):
        for kind in ("f32", "bf16", "f16"):
            assert f"tensor<{shape}x{kind}>" not in text
