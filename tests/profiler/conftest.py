from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def started() -> None:
    """Starts JAX with its eight devices, before a test asks for thousands."""
    assert len(jax.devices()) == 8
