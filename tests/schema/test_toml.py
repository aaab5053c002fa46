from __future__ import annotations

import tomllib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import ClusterError, SpecError
from llmpq_jax.files import write_text
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.record import record
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import decode_record, read_record, to_toml
from tests.schema import records


@record
class Wheel:
    """Nothing to do with the project.

    Attributes:
        width: Width in millimetres.
    """

    width: int


@record
class Vehicle:
    """A record with one of everything.

    Attributes:
        schema: Version of the format.
        name: Field that is a text.
        speed: Field that is a number.
        has_roof: Field that is a boolean.
        wheels: Field that is a table of records.
        colour: Field that may be absent.
    """

    schema: Literal[1] = 1
    name: str
    speed: float
    has_roof: bool = False
    wheels: tuple[Wheel, ...] = ()
    colour: str | None = None

    def __post_init__(self) -> None:
        if self.speed < 0:
            msg = f"speed is {self.speed}, expected at least 0"
            raise ValueError(msg)


GOOD = {"name": "cart", "speed": 3.0, "wheels": [{"width": 40}]}


@pytest.mark.parametrize(
    ("cls", "made"),
    [
        (Cluster, records.clusters()),
        (Strategy, records.strategies()),
        (Measurements, records.measurements),
        (Sensitivity, records.sensitivities),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path_factory, cls, made, data):
    written = data.draw(made)
    path = tmp_path_factory.mktemp("records") / "record.toml"
    write_text(path, to_toml(written, comment="two\nlines"))
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    assert decode_record(cls, found, where="file") == written


def test_absent_fields_are_not_written():
    text = to_toml(Vehicle(name="cart", speed=1.0))
    assert "colour" not in text
    assert "wheels" not in text


def test_a_comment_is_at_the_top_of_the_file():
    text = to_toml(Vehicle(name="cart", speed=1.0), comment="first\nsecond")
    assert text.startswith("# first\n# second\nschema = 1\n")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"speed": "fast"}, "lorry.toml: speed: found 'fast', input should be a valid"),
        ({"name": 3}, "lorry.toml: name: found 3, input should be a valid string"),
        (
            {"has_roof": 1},
            "lorry.toml: has_roof: found 1, input should be a valid bool",
        ),
        (
            {"weels": []},
            "lorry.toml: weels: unknown key; remove it or correct its spell",
        ),
        (
            {"wheels": [{"width": 40}, {"width": 4.5}]},
            r"lorry.toml: wheels\[1\].width: found 4.5, input should be a valid integer",
        ),
        (
            {"wheels": [{"width": 40, "depth": 1}]},
            r"lorry.toml: wheels\[0\].depth: unknown key",
        ),
        ({"wheels": [{}]}, r"wheels\[0\].width: missing, expected a value"),
        ({"wheels": 4}, "wheels: found 4, input should be a valid"),
        ({"speed": -1.0}, "^lorry.toml: speed is -1.0, expected at least 0$"),
        ({"schema": 2}, "lorry.toml: schema: found 2, expected 1, the only version"),
    ],
)
def test_an_error_names_the_key_what_was_found_and_what_is_expected(change, complaint):
    with pytest.raises(SpecError, match=complaint):
        decode_record(Vehicle, GOOD | change, where="lorry.toml")


def test_a_missing_key_is_named():
    with pytest.raises(SpecError, match=r"lorry\.toml: name: missing, expected a"):
        decode_record(Vehicle, {"speed": 1.0}, where="lorry.toml")


def test_three_mistakes_are_shown_and_the_others_counted():
    data = GOOD | {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    with pytest.raises(
        SpecError, match=r"a: .*; b: .*; c: [^;]*; remove.*; and 2 more$"
    ):
        decode_record(Vehicle, data, where="lorry.toml")


@pytest.mark.parametrize(
    "text",
    [
        f"name = {900 * '['}1{900 * ']'}",
        f"name = {40 * '['}1{40 * ']'}",
        f"name = {200 * '{a = '}1{200 * '}'}",
        f"{'a.' * 20}a = 1",
        f"[{'a . ' * 30}a]",
        f"{'a.' * 100_000}a = 1",
        f"x = {{{'b.' * 100_000}b = 1}}",
        "\n".join(f"[{'.'.join(n * ['a'])}]" for n in range(1, 30)),
        f"name = 1{5000 * '0'}",
    ],
    ids=["arrays", "few arrays", "tables", "key", "header", *("a", "b", "c", "digits")],
)
def test_what_is_nested_too_deep_or_has_too_many_digits_is_refused(tmp_path, text):
    path = tmp_path / "deep.toml"
    path.write_text(text)
    complaint = r"is nested too deep: expected at most 16|has a key of more than|digits"
    with pytest.raises(SpecError, match=complaint) as caught:
        read_record(Vehicle, path, what="vehicle")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_long_words_are_no_long_keys(tmp_path):
    """Neither of letters alone, which a search for dots must not try from each of them."""
    path = tmp_path / "long.toml"
    path.write_text(f'name = "{500_000 * "a"}"\nspeed = 1.0\n')
    assert len(read_record(Vehicle, path, what="vehicle").name) == 500_000


def test_the_error_has_the_requested_class(tmp_path):
    with pytest.raises(ClusterError):
        read_record(Vehicle, tmp_path / "no.toml", what="cluster", error=ClusterError)


def test_a_missing_file_is_named(tmp_path):
    complaint = r"vehicle .*none\.toml: cannot be read \(No such file or directory\)"
    with pytest.raises(SpecError, match=complaint):
        read_record(Vehicle, tmp_path / "none.toml", what="vehicle")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"name = \xff")
    with pytest.raises(
        SpecError, match=r"is not UTF-8 text \(byte 7\): expected a veh"
    ):
        read_record(Vehicle, path, what="vehicle")


def test_a_file_that_is_not_toml_is_refused_with_its_line(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("name = 'cart'\nspeed = = 3\n")
    with pytest.raises(SpecError, match=r"is not TOML: .*line 2"):
        read_record(Vehicle, path, what="vehicle")
