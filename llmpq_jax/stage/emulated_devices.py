"""Device names as plans write them, and emulation of several CPU devices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax

# jax.Device is a variable, which type checkers refuse in annotations.
JaxDevice: TypeAlias = Any

PLACED_NAME = re.compile(r"(?P<node>[^/]+)/(?P<platform>[a-z]+):(?P<index>[0-9]+)")


def emulate_cpu_devices(names: Iterable[str]) -> None:
    """Makes JAX emulate as many CPU devices as full device names ask for.

    It must be called before JAX first lists its devices. Later it has no effect, and
    looking up a missing device raises the error.
    """
    indices = [
        int(match["index"])
        for name in names
        if (match := PLACED_NAME.fullmatch(name)) and match["platform"] == "cpu"
    ]
    needed = max(indices, default=-1) + 1
    configured = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if needed <= max(1, configured):
        return
    try:
        jax.config.update("jax_num_cpu_devices", needed)
    except RuntimeError:  # JAX has its devices already
        return
