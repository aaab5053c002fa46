"""Finds the devices that a strategy names on this machine."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.emulated_devices import PLACED_NAME, JaxDevice


def find_devices(strategy: Strategy) -> list[tuple[JaxDevice, ...]]:
    """Returns each stage's JAX devices.

    Raises:
        StrategyError: If the strategy spans several machines, or a device is missing.
    """
    names = [name for stage in strategy.stages for name in stage.devices]
    nodes = sorted({name.split("/")[0] for name in names})
    if len(nodes) > 1:
        msg = f"the strategy spans the nodes {', '.join(nodes)}: expected one, because the local engine runs on one machine; use --engine ray, or solve for a cluster of this machine alone"
        raise StrategyError(msg)
    return [tuple(_find(name) for name in stage.devices) for stage in strategy.stages]


def claim_devices(names: Sequence[str]) -> tuple[JaxDevice, ...]:
    """Starts JAX on one stage's devices alone, in a process without other stages.

    GPUs of other stages stay invisible to the process; CPU devices are emulated. The
    full names are all of one platform.

    Raises:
        StrategyError: If a device is missing.
    """
    parsed = [_parse(name) for name in names]
    platform = parsed[0][0]
    # JAX numbers its visible devices from 0, in the order of their own numbers.
    visible = sorted(index for _, index in parsed)
    jax.config.update(
        "jax_platforms", "cpu" if platform == "cpu" else f"{platform},cpu"
    )
    if platform == "cpu":
        jax.config.update("jax_num_cpu_devices", len(visible))
    elif platform == "cuda":
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, visible)))
    try:
        devices = jax.devices(platform)
    except RuntimeError as reason:
        msg = f"device {names[0]!r}: JAX finds no such {platform} there ({reason}): solve for the devices that `jax.devices()` lists on that machine"
        raise StrategyError(msg) from reason
    if len(devices) < len(visible):
        msg = f"devices {', '.join(names)}: JAX finds {len(devices)} {platform} devices there: expected {len(visible)}; solve for the devices that `jax.devices()` lists on that machine"
        raise StrategyError(msg)
    return tuple(devices[visible.index(index)] for _, index in parsed)


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
