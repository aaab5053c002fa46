import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.profiler.grid import QUICKSTART_GRID, Grid, Shape, grid_for
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.workload import Workload

workloads = st.builds(
    Workload,
    batch=st.integers(1, 70),
    prompt_length=st.integers(1, 3000),
    new_tokens=st.integers(1, 500),
)


@given(workloads)
def test_a_workloads_own_buckets_are_measured_at_every_number_of_rows(workload):
    grid = grid_for(workload)
    tokens = bucket_length(workload.prompt_length)
    slots = bucket_length(workload.context_length)
    rows = {shape.rows for shape in grid.shapes}
    assert workload.batch in rows
    assert {1 << n for n in range(7) if 1 << n < workload.batch} <= rows
    assert rows == set(grid.head_rows)
    for count in rows:
        assert Shape(rows=count, num_tokens=tokens, num_slots=slots) in grid.shapes
        assert {count, count * tokens} <= set(grid.embedding_rows)


@given(workloads)
def test_lengths_are_buckets_and_no_longer_than_the_workload_needs(workload):
    grid = grid_for(workload)
    for shape in grid.shapes:
        assert bucket_length(shape.num_tokens) == shape.num_tokens
        assert bucket_length(shape.num_slots) == shape.num_slots
        assert shape.num_slots <= bucket_length(workload.context_length)
    assert len(set(grid.shapes)) == len(grid.shapes)


@given(workloads)
def test_decoding_is_measured_from_its_first_context_to_its_last(workload):
    slots = {shape.num_slots for shape in grid_for(workload).shapes}
    first = bucket_length(workload.prompt_length + 1)
    assert min(slots) <= first <= max(slots)


@given(workloads)
def test_what_is_held_out_is_between_and_in_no_grid(workload):
    grid = grid_for(workload)
    sizes = {(shape.rows, shape.num_tokens) for shape in grid.shapes}
    sizes |= {(shape.rows, shape.num_slots) for shape in grid.shapes}
    # Up to three rows every number is measured, and none is between.
    assert bool(grid.held_out) == (workload.batch > 3)
    for shape in grid.held_out:
        assert (shape.rows, shape.num_tokens) not in sizes
        assert (shape.rows, shape.num_slots) not in sizes
        assert bucket_length(shape.num_tokens) == shape.num_tokens
        assert bucket_length(shape.num_slots) == shape.num_slots
        assert 1 < shape.rows < workload.batch
        assert shape.num_slots <= max(each.num_slots for each in grid.shapes)


@given(workloads)
def test_quick_is_part_of_usual_and_usual_of_full(workload):
    quick, usual, full = (
        grid_for(workload, each) for each in ("quick", "usual", "full")
    )
    assert set(quick.shapes) <= set(usual.shapes) <= set(full.shapes)
    assert {1, workload.batch} <= {shape.rows for shape in quick.shapes}
    assert len({shape.rows for shape in quick.shapes}) <= 3
    assert len(quick.held_out) <= 2
    assert len(usual.held_out) <= len(full.held_out)


@given(workloads)
def test_full_serves_every_shorter_workload_from_within(workload):
    shapes = grid_for(workload, "full").shapes
    assert min(shape.num_slots for shape in shapes) == bucket_length(1)
    assert len(set(shapes)) == len(shapes)


def test_the_quick_grid_has_few_shapes():
    assert len(QUICKSTART_GRID.shapes) == 6
    assert QUICKSTART_GRID.max_tokens == 16 * 64


def test_a_cache_shorter_than_the_prompt_is_refused():
    with pytest.raises(ValueError, match="expected at least one row and token, and a"):
        Grid.of((1,), ((16, 8),))
