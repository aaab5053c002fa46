"""A tiny model in two stages, and what starts them under Ray."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from llmpq_jax.runtime.engines.engine import StartEngine
from llmpq_jax.schema.strategy import Strategy
from tests.support.ray_machines import Machines, set_worker_up
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="package")
def two_stages(folder: Path) -> Strategy:
    return make_strategy(
        folder, [((0,), [16, 8]), ((1,), [4, 16])], batch=4, new_tokens=16
    )


@pytest.fixture(scope="package")
def start(
    machines: Machines, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., StartEngine]:
    """Starts the engine; workers share a folder of what they compiled."""
    from llmpq_jax.runtime.engines.ray.ray_engine import start_ray

    compiled = str(tmp_path_factory.mktemp("compiled"))
    set_up = partial(set_worker_up, compiled)
    return partial(partial, start_ray, address=machines.address, set_up=set_up)
