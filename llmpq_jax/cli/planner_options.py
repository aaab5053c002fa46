"""Options that say which choices a planner has, for all commands that plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from llmpq_jax.cli.problem_options import request_as_typed
from llmpq_jax.cli.shared_options import POSITIVE, with_options

if TYPE_CHECKING:
    from llmpq_jax.planner import PlanRequest

EIGHT_OR_SIXTEEN: dict[str, tuple[Literal[8, 16], ...]] = {
    "8": (8,),
    "16": (16,),
    "any": (16, 8),
}
WIDTHS: dict[str, tuple[int, ...]] = {"1": (1,), "any": (1, 2, 4, 8)}

choice_options = with_options(
    click.option(
        "--min-bits",
        type=click.Choice(["4", "8", "16"]),
        default="4",
        show_default=True,
        help="The least precision a layer may have.",
    ),
    click.option(
        "--head-bits",
        type=click.Choice(["8", "16", "any"]),
        default="16",
        show_default=True,
        help="Precision of the output head; any lets the planner choose.",
    ),
    click.option(
        "--kv-bits",
        type=click.Choice(["8", "16", "any"]),
        default="16",
        show_default=True,
        help="Precision of the cache of keys and values, 16 being the activations' type; "
        "any lets the planner choose among those that were measured.",
    ),
    click.option(
        "--wire-bits",
        type=click.Choice(["8", "16", "any"]),
        default="16",
        show_default=True,
        help="Precision of the hidden states that a stage hands on, 16 being the "
        "activations' type; any lets the planner choose for each hop.",
    ),
    click.option(
        "--tensor",
        type=click.Choice(["1", "any"]),
        default="1",
        show_default=True,
        help="Devices that hold a stage together: one, or as many equal ones of a node as "
        "the planner chooses among the widths that were measured (with --roofline, 2, 4 "
        "and 8).",
    ),
    click.option(
        "--prefill-micro-batch",
        type=POSITIVE,
        help="Pin the prompts of a prefill micro-batch.",
    ),
    click.option(
        "--decode-micro-batch",
        type=POSITIVE,
        help="Pin the rows of a decode micro-batch.",
    ),
    click.option(
        "--pin-layers",
        multiple=True,
        metavar="FIRST:END=DEVICE",
        help="Layers from FIRST up to but without END lie on that device, such as "
        "0:12=node0/cuda:0; may be given several times, as the next three.",
    ),
    click.option(
        "--pin-bits",
        multiple=True,
        metavar="FIRST:END=BITS",
        help="Layers from FIRST up to but without END have so many bits, such as 0:2=16.",
    ),
    click.option(
        "--use",
        multiple=True,
        metavar="DEVICE",
        help="This device may not stay idle, whatever the cluster file says.",
    ),
    click.option(
        "--leave-idle", multiple=True, metavar="DEVICE", help="This device stays idle."
    ),
)

theta_option = click.option(
    "--theta",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds that a unit of quality loss is worth.",
)


def request_with_choices(
    *,
    min_bits: str,
    head_bits: str,
    kv_bits: str,
    wire_bits: str,
    tensor: str,
    prefill_micro_batch: int | None,
    decode_micro_batch: int | None,
    pin_layers: tuple[str, ...],
    pin_bits: tuple[str, ...],
    use: tuple[str, ...],
    leave_idle: tuple[str, ...],
    omega_budget: float | None = None,
    theta: float = 0.0,
    **sources: Any,
) -> PlanRequest:
    """Returns the problem that these options and those of `request_as_typed` name.

    Raises:
        UsageError: Options do not go together.
        LlmpqError: A file cannot be read, or is of another model.
    """
    from llmpq_jax.cli.constraint_options import read_pins, read_uses

    try:
        request = request_as_typed(
            **sources,
            head_bits=EIGHT_OR_SIXTEEN[head_bits],
            prefill=prefill_micro_batch,
            decode=decode_micro_batch,
            tensor=WIDTHS[tensor],
            uses=read_uses(always=use, never=leave_idle),
        )
        return replace(
            request,
            bits=tuple(bits for bits in request.bits if bits >= int(min_bits)),
            kv_bits=EIGHT_OR_SIXTEEN[kv_bits],
            wire_bits=EIGHT_OR_SIXTEEN[wire_bits],
            omega_budget=omega_budget,
            theta=theta,
            pins=read_pins(layers=pin_layers, bits=pin_bits),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
