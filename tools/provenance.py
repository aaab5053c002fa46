"""By what, by which command and when a figure was made."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime

import jax

from llmpq_jax import __version__


def provenance(module: str) -> dict[str, str]:
    """Returns what each line of figures says of its origin.

    Args:
        module: That runs, as `python -m` takes it.
    """
    return {
        "llmpq_jax": __version__,
        "jax": jax.__version__,
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
    }
