"""Commands that do not solve pay for no solver."""

from __future__ import annotations

import subprocess
import sys

import llmpq_jax.planner


def test_importing_the_solver_loads_neither_pyomo_nor_jax():
    code = "import sys, llmpq_jax.planner; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert not {"pyomo", "highspy", "jax", "flax"} & set(done.stdout.split())


def test_all_that_is_public_is_there():
    assert all(hasattr(llmpq_jax.planner, name) for name in llmpq_jax.planner.__all__)
