"""Runs a strategy: `Pipeline.load`, `generate`, `score`.

Names are imported when they are first used, so that the package itself stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmpq_jax.runtime.pipeline import Pipeline
    from llmpq_jax.runtime.request import Completion, Request, Sampling

__all__ = ["Completion", "Pipeline", "Request", "Sampling"]

_HOMES = {
    "Completion": "request",
    "Pipeline": "pipeline",
    "Request": "request",
    "Sampling": "request",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
