"""Which pins make a request infeasible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from llmpq_jax.planner.constraints import with_use
from llmpq_jax.planner.diagnose.feasible import has_plan
from llmpq_jax.planner.request import PlanRequest


def pin_clash(request: PlanRequest) -> str | None:
    """Returns a minimal set of conflicting pins as text.

    Returns None if pins are not what makes the request infeasible.
    """
    pins = list(loosened(request))
    if not pins:
        return None
    free = request
    for _, change in pins:
        free = change(free)
    if not has_plan(free):
        return None
    alone = [what for what, change in pins if has_plan(change(request))]
    if alone:
        others = (
            ""
            if len(alone) == 1
            else "; so there is without " + ", or without ".join(alone[1:])
        )
        return f"no plan fits with {alone[0]}, and without it there is one{others}"
    together = ", ".join(what for what, _ in pins)
    return f"no plan fits with these pins together: {together}; and without all of them there is one"


def loosened(
    request: PlanRequest,
) -> Iterator[tuple[str, Callable[[PlanRequest], PlanRequest]]]:
    """Yields every pin of layers, bits and devices, and the change that removes it."""
    for pin in request.pins:
        yield (
            str(pin),
            lambda r, pin=pin: replace(
                r, pins=tuple(other for other in r.pins if other != pin)
            ),
        )
    for node_device in request.cluster.node_devices:
        if node_device.device.use != "any":
            what = "idle" if node_device.device.use == "never" else "in use"
            yield (
                f"{node_device.name} pinned {what}",
                lambda r, name=node_device.name: replace(
                    r, cluster=with_use(r.cluster, {name: "any"})
                ),
            )
