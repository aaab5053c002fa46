import pytest

from llmpq_jax.errors import SpecError
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity
from llmpq_jax.schema.sensitivity_file import (
    check_sensitivity,
    read_sensitivity,
    write_sensitivity,
)

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


def test_what_is_no_sensitivity_file_is_refused(tmp_path):
    path = tmp_path / "sensitivity.toml"
    with pytest.raises(SpecError, match=r"sensitivity .*: cannot be read"):
        read_sensitivity(path)


def test_sensitivities_of_another_model_are_refused():
    check_sensitivity(SENSITIVITY, "sha256:1")
    message = "sensitivities of tiny: found the model sha256:1, expected sha256:2: run `llmpq-jax indicate`"
    with pytest.raises(SpecError, match=message):
        check_sensitivity(SENSITIVITY, "sha256:2")
