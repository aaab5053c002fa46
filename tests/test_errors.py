from __future__ import annotations

import inspect

import pytest

from llmpq_jax import errors

TYPES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", TYPES)
def test_every_error_has_one_base_class(error):
    found = error("a message")
    assert isinstance(found, errors.LlmpqError)
    assert str(found) == "a message"


@pytest.mark.parametrize(
    "error", [errors.ClusterError, errors.MeasurementError, errors.StrategyError]
)
def test_errors_of_files_have_one_base_class(error):
    assert issubclass(error, errors.SpecError)


@pytest.mark.parametrize("error", TYPES)
def test_every_error_is_in_the_tree_and_says_when_it_is_raised(error):
    depth = len(error.__mro__) - len(errors.LlmpqError.__mro__)
    tree = (errors.__doc__ or "").splitlines()
    line = next(line for line in tree if error.__name__ in line)
    assert line.index(error.__name__) == 4 + 4 * depth
    assert inspect.getdoc(error)
