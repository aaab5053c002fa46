"""Options that say what the planner may choose, what it must keep, and how long it searches."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import click

from llmpq_jax.cli.options.option_group import OptionGroup
from llmpq_jax.cli.options.shared import POSITIVE, WINDOW, choice
from llmpq_jax.schema.solve_request import (
    BitsPin,
    LayerPin,
    PlannerChoices,
    QualityLimits,
    SearchLimits,
)

PinT = TypeVar("PinT", LayerPin, BitsPin)

_EIGHT_OR_SIXTEEN = {"8": (8,), "16": (16,), "any": (16, 8)}
ALL_WIDTHS = (1, 2, 4, 8)


class _PinType(click.ParamType[Any]):
    """Reads pins such as 0:12=node0/cuda:0 and 0:2=16."""

    name = "pin"

    def __init__(self, kind: type[LayerPin] | type[BitsPin], example: str) -> None:
        self._kind = kind
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> LayerPin | BitsPin:
        """Reads one pin."""
        if isinstance(value, LayerPin | BitsPin):
            return value
        what = "DEVICE" if self._kind is LayerPin else "BITS"
        match = re.fullmatch(r"(\d+):(\d+)=(.+)", value)
        if match is None:
            self.fail(
                f"{value!r}: expected FIRST:END={what}, such as {self._example}",
                param,
                ctx,
            )
        first, end = int(match[1]), int(match[2])
        if self._kind is LayerPin:
            return LayerPin(first=first, end=end, device=match[3])
        if match[3] not in {"4", "8", "16"}:
            self.fail(
                f"{value}: found {match[3]} bits, expected one of [4, 8, 16]",
                param,
                ctx,
            )
        bits: Any = int(match[3])
        return BitsPin(first=first, end=end, bits=bits)


CHOICES = OptionGroup(
    title="Choices of the planner",
    record=PlannerChoices,
    parameter="choices",
    options=(
        choice(
            "--min-bits",
            "bits",
            values={"4": (16, 8, 4), "8": (16, 8), "16": (16,)},
            default="4",
            help="Lowest precision that a layer may have.",
        ),
        choice(
            "--head-bits",
            values=_EIGHT_OR_SIXTEEN,
            default="16",
            help="Precision of the output head; with any, the planner chooses.",
        ),
        choice(
            "--kv-bits",
            values=_EIGHT_OR_SIXTEEN,
            default="16",
            help="Precision of the key-value cache. 16 keeps it in the type of the "
            "activations; with any, the planner chooses among the measured ones.",
        ),
        choice(
            "--wire-bits",
            values=_EIGHT_OR_SIXTEEN,
            default="16",
            help="Precision of the hidden states that a stage sends to the next. 16 "
            "sends them in the type of the activations; with any, the planner chooses "
            "for each hop.",
        ),
        choice(
            "--tensor",
            values={"1": (1,), "any": ALL_WIDTHS},
            default="1",
            help="Devices that hold one stage together. With any, the planner chooses "
            "1, 2, 4 or 8 equal devices of a node, as far as `profile` measured them; "
            "with --roofline, any of these.",
        ),
        click.Option(
            ["--prefill-micro-batch"],
            type=POSITIVE,
            help="Number of prompts in a prefill micro-batch (default: the planner "
            "chooses).",
        ),
        click.Option(
            ["--decode-micro-batch"],
            type=POSITIVE,
            help="Number of sequences in a decode micro-batch (default: the planner "
            "chooses).",
        ),
        click.Option(
            ["--pin-layers"],
            type=_PinType(LayerPin, "0:12=node0/cuda:0"),
            multiple=True,
            metavar="FIRST:END=DEVICE",
            help="Place the layers FIRST to END (exclusive) on this device, such as "
            "0:12=node0/cuda:0. May be repeated.",
        ),
        click.Option(
            ["--pin-bits"],
            type=_PinType(BitsPin, "0:2=16"),
            multiple=True,
            metavar="FIRST:END=BITS",
            help="Give the layers FIRST to END (exclusive) this precision, such as "
            "0:2=16. May be repeated.",
        ),
        click.Option(
            ["--use"],
            multiple=True,
            metavar="DEVICE",
            help="Use this device, whatever the cluster file says. May be repeated.",
        ),
        click.Option(
            ["--leave-idle"],
            multiple=True,
            metavar="DEVICE",
            help="Leave this device idle, whatever the cluster file says. May be "
            "repeated.",
        ),
    ),
)

QUALITY = OptionGroup(
    title="Limits on the loss of quality",
    record=QualityLimits,
    parameter="quality",
    options=(
        click.Option(
            ["--theta"],
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="Seconds that a unit of quality loss is worth in the objective.",
        ),
        click.Option(
            ["--omega-budget"],
            type=click.FloatRange(min=0),
            help="Maximum quality loss, summed over the layers (default: that of all "
            "layers at 8 bits).",
        ),
        click.Option(
            ["--max-ppl-increase"],
            type=click.FloatRange(min=0, min_open=True),
            help="Maximum increase of the perplexity, measured on the validation text.",
        ),
        click.Option(
            ["--max-kl"],
            type=click.FloatRange(min=0, min_open=True),
            help="Maximum mean KL divergence from the model at 16 bits, in nats per "
            "token, measured on the validation text.",
        ),
        click.Option(
            ["--validation-text"],
            metavar="FILE",
            help="UTF-8 text for measured limits. It must not be the text that the "
            "sensitivities were found on.",
        ),
        WINDOW,
        click.Option(
            ["--validation-tokens"],
            type=POSITIVE,
            help="Number of tokens to read of the validation text, spread over it "
            "(default: all).",
        ),
    ),
)


def search_limits(*, time_limit_s: float, gap: float, help: str) -> OptionGroup:
    """Makes the options that end a search.

    Args:
        time_limit_s: Default of the time limit, in seconds.
        gap: Default of the relative gap.
        help: Text for the time limit's `--help`.
    """
    return OptionGroup(
        title="Search",
        record=SearchLimits,
        parameter="search",
        options=(
            click.Option(
                ["--time-limit", "time_limit_s"],
                type=click.FloatRange(min=0, min_open=True),
                default=time_limit_s,
                show_default=True,
                metavar="SECONDS",
                help=help,
            ),
            click.Option(
                ["--gap"],
                type=click.FloatRange(min=0),
                default=gap,
                show_default=True,
                help="Relative gap between objective and bound at which a plan counts "
                "as optimal.",
            ),
        ),
    )
