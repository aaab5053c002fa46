"""The law of the pipeline: cuts, micro-batches, meshes and padding change no token."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.schema.precision import Bits, KvBits
from tests.support.same_tokens import compare_all, logit_tolerance
from tests.support.tiny_models import make_strategy, write_tiny_model

# An example compiles every stage of two pipelines, so each law is a group of its own: at
# full counts one process would still be at all of them when the others are done.
_EXAMPLES = max(2, settings().max_examples // 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@st.composite
def cut_models(draw: st.DrawFn) -> list[tuple[tuple[int, ...], list[Bits]]]:
    """Four layers with random bits, cut into stages of one, two or four devices."""
    num_stages = draw(st.integers(1, 4))
    cuts = sorted(draw(st.permutations([1, 2, 3]))[: num_stages - 1])
    bits = draw(st.lists(st.sampled_from([4, 8, 16]), min_size=4, max_size=4))
    stages = []
    device = 0
    for first, end in zip([0, *cuts], [*cuts, 4], strict=True):
        width = draw(st.sampled_from([1, 1, 2, 4]))
        width = min(width, 8 - device - (num_stages - len(stages) - 1))
        width = 1 if width == 3 else width
        stages.append((tuple(range(device, device + width)), bits[first:end]))
        device += width
    return stages


_MICRO_BATCHES = st.sampled_from(
    [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 2), (4, 4)]
)
_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.8]),
    top_k=st.sampled_from([0, 20]),
    top_p=st.sampled_from([0.9, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
_REQUESTS = st.lists(
    st.builds(
        Request,
        token_ids=st.lists(st.integers(0, 255), min_size=1, max_size=16).map(tuple),
        max_new_tokens=st.integers(1, 8),
        sampling=_SAMPLINGS,
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.xdist_group("pipeline law 1")
@settings(max_examples=_EXAMPLES)
@given(cut_models(), _MICRO_BATCHES, _REQUESTS, st.sampled_from([8, 16]))
def test_any_cut_serves_the_tokens_of_one_device(
    folder: Path,
    stages: list[tuple[tuple[int, ...], list[Bits]]],
    micro_batch: tuple[int, int],
    requests: list[Request],
    head_bits: int,
) -> None:
    prefill, decode = micro_batch
    bits: list[Bits] = [layer for _, stage in stages for layer in stage]
    alone = make_strategy(
        folder, [((0,), bits)], prefill=4, decode=4, head_bits=head_bits
    )
    cut = make_strategy(
        folder, stages, prefill=prefill, decode=decode, head_bits=head_bits
    )
    with Pipeline.load(cut) as pipeline:
        completions = list(pipeline.serve(requests))
        rows = [
            np.asarray([request.token_ids + completion.token_ids])
            for request, completion in zip(requests, completions, strict=True)
        ]
        whole = pipeline.score(rows[0])
        stepwise = pipeline.score(rows[0], stepwise=True)
    with Pipeline.load(alone) as reference:
        logits = [reference.score(row)[0] for row in rows]
        architecture = reference.architecture
    tolerance = logit_tolerance(architecture, np.concatenate(logits))
    np.testing.assert_allclose(whole[0], logits[0], atol=tolerance, rtol=0)
    np.testing.assert_allclose(stepwise[0], logits[0], atol=tolerance, rtol=0)
    comparison = compare_all(requests, completions, logits, tolerance)
    assert comparison.num_wrong == 0
    for request, completion in zip(requests, completions, strict=True):
        ended = completion.finish_reason == "eos"
        assert ended or len(completion.token_ids) == request.max_new_tokens


@pytest.mark.xdist_group("pipeline law 2")
@settings(max_examples=_EXAMPLES)
@given(
    st.sets(st.integers(1, 3)),
    st.lists(st.integers(0, 255), min_size=8, max_size=8),
    st.sampled_from([8, 16]),
)
def test_where_only_cuts_change_logits_are_bit_equal(
    folder: Path, cuts: set[int], tokens: list[int], kv_bits: KvBits
) -> None:
    bits: list[Bits] = [8, 4, 16, 8]
    ends = [0, *sorted(cuts), 4]
    stages: list[tuple[tuple[int, ...], list[Bits]]] = [
        ((number,), bits[first:end])
        for number, (first, end) in enumerate(itertools.pairwise(ends))
    ]
    with Pipeline.load(make_strategy(folder, stages, kv_bits=kv_bits)) as cut:
        found = [cut.score([tokens]), cut.score([tokens], stepwise=True)]
    with Pipeline.load(make_strategy(folder, [((0,), bits)], kv_bits=kv_bits)) as alone:
        expected = [alone.score([tokens]), alone.score([tokens], stepwise=True)]
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


_LONG_REQUESTS = st.lists(
    st.builds(
        Request,
        token_ids=st.lists(st.integers(0, 255), min_size=1, max_size=60).map(tuple),
        max_new_tokens=st.integers(1, 4),
    ),
    min_size=1,
    max_size=7,
)


@pytest.mark.xdist_group("pipeline law 3")
@settings(max_examples=_EXAMPLES)
@given(
    st.sampled_from([(1, 1), (1, 2), (2, 1), (4, 2)]),
    _LONG_REQUESTS,
    st.sampled_from([16, 32]),
    st.sampled_from([1, 2]),
)
def test_prompts_in_chunks_get_the_tokens_of_whole_prompts(
    folder: Path,
    micro_batch: tuple[int, int],
    requests: list[Request],
    chunk_tokens: int,
    width: int,
) -> None:
    prefill, decode = micro_batch
    stages: list[tuple[tuple[int, ...], list[Bits]]] = [
        (tuple(range(width)), [8, 4]),
        ((width,), [16, 8]),
    ]
    sizes: dict[str, Any] = {"prompt_length": 60, "new_tokens": 4}
    chunked = make_strategy(
        folder,
        stages,
        prefill=prefill,
        decode=decode,
        chunk_tokens=chunk_tokens,
        **sizes,
    )
    with Pipeline.load(chunked) as pipeline:
        completions = list(pipeline.serve(requests))
        rows = [
            np.asarray([request.token_ids + completion.token_ids])
            for request, completion in zip(requests, completions, strict=True)
        ]
        found = [pipeline.score(row)[0] for row in rows]
    whole = make_strategy(folder, stages, **sizes)
    with Pipeline.load(whole) as reference:
        logits = [reference.score(row)[0] for row in rows]
        architecture = reference.architecture
    tolerance = logit_tolerance(architecture, np.concatenate(logits))
    for scored, expected in zip(found, logits, strict=True):
        np.testing.assert_allclose(scored, expected, atol=tolerance, rtol=0)
    assert compare_all(requests, completions, logits, tolerance).num_wrong == 0
