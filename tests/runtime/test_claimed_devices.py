"""A process claims the devices of its stage; each case starts JAX in a new process."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
import jax
from llmpq_jax.errors import StrategyError
from llmpq_jax.runtime.claimed_devices import claim_devices
try:
    claimed = claim_devices(sys.argv[1:])
except StrategyError as error:
    print(error)
else:
    print([device.id for device in claimed], len(jax.devices()))
"""


def claim(*names: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *names],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_process_sees_only_its_stage_s_devices_in_the_plan_s_order():
    assert claim("box/cpu:5", "box/cpu:3") == "[1, 0] 2"


@pytest.mark.parametrize("name", ["box/tpu:0", "box/rocm:1"])
def test_a_missing_device_is_named(name):
    platform = name[4:].split(":")[0]
    found = claim(name)
    assert found.startswith(f"device {name!r}: JAX finds no such {platform} there")
    assert "\n" not in found
