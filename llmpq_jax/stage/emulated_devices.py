"""Names of devices as plans write them, and CPU devices that are only emulated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax

# jax.Device is a variable, which type checkers refuse in annotations.
JaxDevice: TypeAlias = Any

PLACED_NAME = re.compile(r"(?P<node>[^/]+)/(?P<platform>[a-z]+):(?P<index>[0-9]+)")


def emulate_cpu_devices(names: Iterable[str]) -> None:
    """Asks JAX for as many CPU devices as a list of full device names needs.

    Must come before JAX first looks at its devices; later it has no effect, and
    whoever looks a device up says what is missing.
    """
    indices = [
        int(match["index"])
        for name in names
        if (match := PLACED_NAME.fullmatch(name)) and match["platform"] == "cpu"
    ]
    needed = max(indices, default=-1) + 1
    asked = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if needed <= max(1, asked):
        return
    try:
        jax.config.update("jax_num_cpu_devices", needed)
    except RuntimeError:  # JAX has its devices already
        return
