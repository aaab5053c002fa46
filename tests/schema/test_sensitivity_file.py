"""Sensitivity files: read as they were written, or refused."""

import pytest

from llmpq_jax.errors import SpecError
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity
from llmpq_jax.schema.sensitivity_file import read_sensitivity, write_sensitivity

SENSITIVITY = Sensitivity(
    model="tiny",
    fingerprint="sha256:1",
    method="weight-variance",
    unit="noise over signal",
    group_size=64,
    head_8=1e-5,
    layers=(
        LayerSensitivity(layer=0, bits=8, omega=1e-4),
        LayerSensitivity(layer=0, bits=4, omega=0.1),
    ),
)


def test_sensitivities_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "sensitivity.toml"
    write_sensitivity(path, SENSITIVITY)
    assert read_sensitivity(path) == SENSITIVITY


def test_an_invalid_sensitivity_file_is_refused(tmp_path):
    path = tmp_path / "sensitivity.toml"
    with pytest.raises(SpecError, match=r"sensitivity .*: cannot be read"):
        read_sensitivity(path)
