"""Finds the devices a strategy names among those of this machine."""

from __future__ import annotations

import jax

from llmpq_jax.errors import StrategyError
from llmpq_jax.spec.strategy import Strategy
from llmpq_jax.stage.devices import PLACED_NAME, JaxDevice


def find_devices(strategy: Strategy) -> list[tuple[JaxDevice, ...]]:
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


def _find(name: str) -> JaxDevice:
    match = PLACED_NAME.fullmatch(name)
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
