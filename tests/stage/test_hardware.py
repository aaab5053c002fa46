from __future__ import annotations

from types import SimpleNamespace

import jax

from llmpq_jax.stage import hardware as machine
from llmpq_jax.stage.hardware import driver_version, machine_of, processor_name


def test_an_nvidia_driver_s_version_follows_jax_s_own(monkeypatch, tmp_path):
    def serving(platform):
        client = SimpleNamespace(platform_version="PJRT C API\ncuda 12090")
        return driver_version(SimpleNamespace(platform=platform, client=client))

    version_file = tmp_path / "version"
    version_file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n"
    )
    monkeypatch.setattr(machine, "Path", lambda _: version_file)
    assert serving("gpu") == "PJRT C API cuda 12090, driver 550.54.15"
    assert serving("cpu") == "PJRT C API cuda 12090"


def test_a_processor_is_named_by_its_model():
    (device, *_) = jax.devices()
    found = machine_of(device)
    assert found.device == processor_name()
    assert found.jax_version == jax.__version__
    assert machine_of(device) == found
