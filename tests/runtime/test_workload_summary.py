from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime import Request
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.workload_summary import longest_first, summarize_workload
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("summary") / "model")


def served_in_turn(lengths, look_ahead):
    """The slow, obvious order: by index, with a list for a window."""
    waiting, window, turns = list(range(len(lengths))), [], []
    while waiting or window:
        while waiting and len(window) < look_ahead:
            window.append(waiting.pop(0))
        turn = max(window, key=lambda index: (lengths[index], -index))
        window.remove(turn)
        turns.append(turn)
    return turns


@given(lengths=st.lists(st.integers(1, 5)), look_ahead=st.integers(1, 8))
def test_the_longest_in_the_window_comes_next_and_no_more_are_read(lengths, look_ahead):
    num_read = 0

    def read():
        nonlocal num_read
        for number in range(len(lengths)):
            num_read += 1
            yield number

    turns = []
    for turn in longest_first(read(), lengths.__getitem__, look_ahead=look_ahead):
        assert num_read - len(turns) <= look_ahead
        turns.append(turn)
    assert turns == served_in_turn(lengths, look_ahead)


@given(
    each=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=30
    ),
    batch=st.integers(1, 12),
    prefill=st.sampled_from([1, 2, 4]),
    decode=st.sampled_from([1, 2, 4]),
)
def test_the_shape_fits_all_requests_in_their_order(
    model, each, batch, prefill, decode
):
    strategy = make_strategy(
        model,
        [((0,), [16] * 4)],
        batch=batch,
        prefill=prefill,
        decode=decode,
    )
    requests = [
        Request(token_ids=(1,) * prompt, max_new_tokens=new) for prompt, new in each
    ]
    summary = summarize_workload(iter(requests), strategy)
    assert summary is not None
    order = served_in_turn([new for _, new in each], summary.look_ahead)
    ordered = [each[turn] for turn in order]
    shape = BatchShape.of(
        strategy.micro_batch,
        batch,
        [prompt for prompt, _ in ordered],
        [prompt + new for prompt, new in ordered],
    )
    assert summary.shape(strategy) == shape
    assert summary.num_requests == len(each)
    assert summary.num_new_tokens == sum(new for _, new in each)
    later = ordered[shape.num_rows :]
    assert all(
        any(prompt <= bucket for bucket in summary.later_buckets) for prompt, _ in later
    )
    assert bool(summary.later_buckets) == bool(later)


def test_no_requests_have_no_summary(model):
    assert summarize_workload([], make_strategy(model, [((0,), [16] * 4)])) is None
