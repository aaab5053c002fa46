from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_loss,
    format_seconds,
    parse_bytes,
    round_down,
    round_up,
)

UNITS = {"B": 1, "kB": 1000, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 2**40,
}


@given(
    st.integers(min_value=0, max_value=10**6),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(("", " ", "  ")),
    st.sampled_from((str, str.lower, str.upper)),
)
def test_a_number_and_a_unit_are_multiplied(number, unit, space, change):
    assert parse_bytes(f"{number}{space}{change(unit)}") == number * UNITS[unit]


@given(st.integers(min_value=0, max_value=2**53))
def test_a_number_alone_counts_bytes(number):
    assert parse_bytes(str(number)) == number


@pytest.mark.parametrize("text", ["", "GiB", "1 apple", "-1 GiB", "1,5 GiB", "1 2"])
def test_what_is_not_a_size_is_refused(text):
    complaint = re.escape(
        f"{text!r} is not a size: write a number and one of B, kB, MB"
    )
    with pytest.raises(ValueError, match=complaint):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**62))
def test_formatted_bytes_read_back_to_three_digits(num_bytes):
    text = format_bytes(num_bytes)
    if num_bytes < 1000 * 2**40:
        assert re.fullmatch(r"[0-9.]+ [KMGT]?i?B", text)
        assert parse_bytes(text) == pytest.approx(num_bytes, rel=0.005)
        assert len(text.split()[0].replace(".", "")) <= 4


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1023 * KIB, "1023 KiB"),
        (1536, "1.5 KiB"),
        (24 * GIB, "24 GiB"),
        (2**42, "4 TiB"),
        (-3 * MIB, "-3 MiB"),
        (2**52, "4096 TiB"),
    ],
)
def test_bytes_are_written_with_a_binary_unit(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (1.234e-6, "1.23 µs"),
        (9.999e-4, "1000 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1000 ms"),
        (1.0, "1 s"),
        (61.44, "61.4 s"),
        (120, "2 min 00 s"),
        (3725.4, "62 min 05 s"),
    ],
)
def test_seconds_are_written_with_a_unit_of_their_size(seconds, text):
    assert format_seconds(seconds) == text


NUMBERS = st.floats(min_value=0, max_value=1e300)


@given(NUMBERS, st.integers(1, 15))
def test_fewer_digits_are_on_their_side_and_near(value, digits):
    lower, upper = round_down(value, digits), round_up(value, digits)
    assert lower <= value <= upper
    step = 10.0 ** (1 - digits)
    assert upper - lower <= step * value * (1 + 1e-9) or value < 1e-290
    for found in (lower, upper):
        assert len(f"{found:.{digits - 1}e}") == len(f"{value:.{digits - 1}e}")
        # What has few digits already stays as it is.
        assert round_down(found, digits) == found == round_up(found, digits)


@given(NUMBERS)
def test_a_loss_that_is_shown_is_enough_as_a_budget(omega):
    assert float(format_loss(omega)) >= omega


def test_a_size_of_too_many_digits_is_refused():
    with pytest.raises(ValueError, match="a size of 400 digits: expected fewer"):
        parse_bytes("9" * 400 + " GiB")
