"""Provenance of measurements: versions, command and date."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime

import jax

from llmpq_jax import __version__


def provenance(module: str) -> dict[str, str]:
    """Returns the provenance that every line of raw results has.

    Args:
        module: Name of the running module, as `python -m` takes it.
    """
    return {
        "llmpq_jax": __version__,
        "jax": jax.__version__,
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
    }
