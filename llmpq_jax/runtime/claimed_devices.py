"""Finds the devices a strategy names among those of this machine."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.emulated_devices import PLACED_NAME, JaxDevice


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


def claim_devices(names: Sequence[str]) -> tuple[JaxDevice, ...]:
    """Starts JAX on a stage's devices alone, in a process that has no other stage.

    A GPU that is another stage's is not touched, and the CPU's devices are emulated.

    Args:
        names: Full names, all of one platform.

    Raises:
        StrategyError: A device is not there.
    """
    places = [_parse(name) for name in names]
    platform = places[0][0]
    # JAX numbers what it is shown from 0 up, in the order of their numbers.
    shown = sorted(index for _, index in places)
    jax.config.update(
        "jax_platforms", "cpu" if platform == "cpu" else f"{platform},cpu"
    )
    if platform == "cpu":
        jax.config.update("jax_num_cpu_devices", len(shown))
    elif platform == "cuda":
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, shown)))
    try:
        devices = jax.devices(platform)
    except RuntimeError as reason:
        msg = f"device {names[0]!r}: JAX finds no such {platform} there ({reason}): solve for the devices that `jax.devices()` lists on that machine"
        raise StrategyError(msg) from reason
    if len(devices) < len(shown):
        msg = f"devices {', '.join(names)}: JAX finds {len(devices)} {platform} devices there: expected {len(shown)}; solve for the devices that `jax.devices()` lists on that machine"
        raise StrategyError(msg)
    return tuple(devices[shown.index(index)] for _, index in places)


def _find(name: str) -> JaxDevice:
    platform, index = _parse(name)
    try:
        devices = jax.devices(platform)
    except RuntimeError as reason:
        msg = f"device {name!r}: JAX finds no {platform} here; solve for the devices that `jax.devices()` lists"
        raise StrategyError(msg) from reason
    if index >= len(devices):
        msg = f"device {name!r}: JAX finds {len(devices)} {platform} devices here, numbered from 0; for emulated CPU devices set jax_num_cpu_devices before JAX starts"
        raise StrategyError(msg)
    return devices[index]


def _parse(name: str) -> tuple[str, int]:
    """Returns the platform and the number of a full device name."""
    match = PLACED_NAME.fullmatch(name)
    if match is None:
        msg = f"device {name!r}: expected node/platform:number, such as node0/cuda:0"
        raise StrategyError(msg)
    return match["platform"], int(match["index"])
