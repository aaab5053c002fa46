"""Which pins make a request infeasible, and the changes of one pin that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from llmpq_jax.planner.diagnose.feasible import Repair, has_plan, largest
from llmpq_jax.planner.pins import BitsPin, Pin, with_use
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.schema.precision import ALL_BITS


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
        others = "; so there is without " + ", or without ".join(alone[1:])
        return (
            f"no plan fits with {alone[0]}, and without it there is one"
            f"{others if len(alone) > 1 else ''}"
        )
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
        name, use = node_device.name, node_device.device.use
        if use != "any":
            yield (
                f"{name} pinned {'idle' if use == 'never' else 'in use'}",
                lambda r, name=name: replace(
                    r, cluster=with_use(r.cluster, {name: "any"})
                ),
            )


def pin_repairs(request: PlanRequest) -> Iterator[Repair]:
    """Yields the smallest change of each pin that helps, or else the removal of all."""
    is_found = False
    for pin in request.pins:
        for repair in _changed(request, pin):
            is_found = True
            yield repair
    for name in ("prefill", "decode"):
        rows, free = getattr(request, name), replace(request, **{name: None})
        if rows is not None and has_plan(free):
            is_found = True
            yield Repair(text=f"other {name} micro-batches than {rows}", request=free)
    free = replace(request, pins=())
    if not is_found and len(request.pins) > 1 and has_plan(free):
        yield Repair(text="no pins of layers and bits", request=free)


def _changed(request: PlanRequest, pin: Pin) -> Iterator[Repair]:
    """Yields the pin of as many layers as fit, from either side, and of other bits."""

    def with_pin(other: Pin | None) -> PlanRequest:
        pins = (other if own == pin else own for own in request.pins)
        return replace(request, pins=tuple(each for each in pins if each is not None))

    if not has_plan(with_pin(None)):
        return
    is_changed = False
    shorter: list[Callable[[int], Pin]] = [
        lambda number: replace(pin, end=pin.first + number),
        lambda number: replace(pin, first=pin.end - number),
    ]
    for make in shorter:
        number = largest(
            1, pin.end - pin.first - 1, lambda n, make=make: has_plan(with_pin(make(n)))
        )
        if number:
            is_changed = True
            yield Repair(text=f"only {make(number)}", request=with_pin(make(number)))
    if isinstance(pin, BitsPin):
        for bits in ALL_BITS:
            other = replace(pin, bits=bits)
            if bits != pin.bits and bits in request.bits and has_plan(with_pin(other)):
                is_changed = True
                yield Repair(text=str(other), request=with_pin(other))
                break
    if not is_changed:
        yield Repair(text=f"without {pin}", request=with_pin(None))
