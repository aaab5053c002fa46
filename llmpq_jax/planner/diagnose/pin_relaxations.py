"""Changes of one pin after which there is a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from llmpq_jax.planner.constraints import BitsPin, Pin
from llmpq_jax.planner.diagnose.feasible import Repair, has_plan
from llmpq_jax.planner.diagnose.thresholds import largest
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.schema.precision import ALL_BITS


def pin_repairs(request: PlanRequest) -> Iterator[Repair]:
    """Yields the smallest change of each pin that helps, or else the removal of all."""
    num_found = 0
    for pin in request.pins:
        for repair in _loosened(request, pin):
            num_found += 1
            yield repair
    for name in ("prefill", "decode"):
        rows = getattr(request, name)
        if rows is not None:
            free = replace(request, **{name: None})
            if has_plan(free):
                num_found += 1
                yield Repair(
                    text=f"other {name} micro-batches than {rows}", request=free
                )
    if not num_found and len(request.pins) > 1:
        free = replace(request, pins=())
        if has_plan(free):
            yield Repair(text="no pins of layers and bits", request=free)


def _loosened(request: PlanRequest, pin: Pin) -> Iterator[Repair]:
    """Yields the pin of as many layers as fit, from either side, and of other bits."""

    def with_pin(other: Pin | None) -> PlanRequest:
        pins = (other if own == pin else own for own in request.pins)
        return replace(request, pins=tuple(each for each in pins if each is not None))

    if not has_plan(with_pin(None)):
        return
    num_layers = pin.end - pin.first
    shorter: list[Callable[[int], Pin]] = [
        lambda number: replace(pin, end=pin.first + number),
        lambda number: replace(pin, first=pin.end - number),
    ]
    is_changed = False
    for make in shorter:
        number = largest(
            1, num_layers - 1, lambda n, make=make: has_plan(with_pin(make(n)))
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
