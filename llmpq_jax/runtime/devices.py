"""Finds the devices a strategy names among those of this machine."""

from __future__ import annotations

import re

import jax

from llmpq_jax.errors import StrategyError
from llmpq_jax.spec.strategy import Strategy

_PLACED_NAME = re.compile(r"(?P<node>[^/]+)/(?P<platform>[a-z]+):(?P<index>[0-9]+)")


def emulate_cpu_devices(names: list[str]) -> None:
    """Asks JAX for as many CPU devices as a list of full device names needs.

    Must come before JAX first looks at its devices; later it has no effect, and
    `find_devices` says what is missing.
    """
    indices = [
        int(match["index"])
        for name in names
        if (match := _PLACED_NAME.fullmatch(name)) and match["platform"] == "cpu"
    ]
    needed = max(indices, default=-1) + 1
    if needed <= max(1, jax.config.jax_num_cpu_devices):
        return
    try:
        jax.config.update("jax_num_cpu_devices", needed)
    except RuntimeError:  # JAX has its devices already; find_devices will say so
        return


def find_devices(strategy: Strategy) -> list[tuple[jax.Device, ...]]:
    """Returns each stage's devices, as JAX knows them.

    Raises:
        StrategyError: The strategy spans several machines, or names a device that is
            not there.
    """
    names = [name for stage in strategy.stages for name in stage.devices]
    nodes = sorted({name.split("/")[0] for name in names})
    if len(nodes) > 1:
        msg = f"the strategy spans the nodes {', '.join(nodes)}: expected one, because the local engine runs on one machine; solve for a cluster of this machine alone"
        raise StrategyError(msg)
    return [tuple(_find(name) for name in stage.devices) for stage in strategy.stages]


def _find(name: str) -> jax.Device:
    match = _PLACED_NAME.fullmatch(name)
    if match is None:
        msg = f"device {name!r}: expected node/platform:number, such as node0/cuda:0"
        raise StrategyError(msg)
    platform, index = match["platform"], int(match["index"])
    try:
        devices = jax.devices(platform)
    except RuntimeError as reason:
        msg = f"device {name!r}: JAX finds no {platform} here; solve for the devices that `jax.devices()` lists"
        raise StrategyError(msg) from reason
    if index >= len(devices):
        msg = f"device {name!r}: JAX finds {len(devices)} {platform} devices here, numbered from 0; for emulated CPU devices set jax_num_cpu_devices before JAX starts"
        raise StrategyError(msg)
    return devices[index]
