"""Options that say what the planner may choose, what it must keep, and how long it searches."""

from __future__ import annotations

import re
from typing import Any

import click

from llmpq_jax.cli.options.option_group import (
    OptionGroup,
    choice,
    flag,
    option,
    option_group,
)
from llmpq_jax.cli.options.shared import (
    ABOVE_ZERO,
    FILE_TEXT,
    FROM_ZERO,
    POSITIVE,
    WINDOW,
    bits_option,
)
from llmpq_jax.schema.precision import ALL_BITS
from llmpq_jax.schema.solve_request import (
    BitsPin,
    LayerPin,
    PlannerChoices,
    QualityLimits,
    SearchLimits,
)

_EIGHT_OR_SIXTEEN = {"8": (8,), "16": (16,), "any": (16, 8)}
ALL_WIDTHS = (1, 2, 4, 8)


def _pin(value: str, what: str, example: str) -> tuple[int, int, str]:
    """Reads the first layer, the end and the target of a pin such as 0:2=16."""
    match = re.fullmatch(r"(\d+):(\d+)=(.+)", value)
    if match is None:
        msg = f"{value!r}: expected FIRST:END={what}, such as {example}"
        raise click.BadParameter(msg)
    return int(match[1]), int(match[2]), match[3]


def _layer_pin(value: str) -> LayerPin:
    first, end, device = _pin(value, "DEVICE", "0:12=node0/cuda:0")
    return LayerPin(first=first, end=end, device=device)


def _bits_pin(value: str) -> BitsPin:
    first, end, typed = _pin(value, "BITS", "0:2=16")
    if typed not in map(str, ALL_BITS):
        msg = f"{value}: found {typed} bits, expected one of {sorted(ALL_BITS)}"
        raise click.BadParameter(msg)
    bits: Any = int(typed)
    return BitsPin(first=first, end=end, bits=bits)


CHOICES = option_group(
    "Choices of the planner",
    PlannerChoices,
    "choices",
    bits=bits_option(
        "Precisions that a layer may have, of 32, 16, 8 and 4. 32 serves float32 weights "
        "as they are, where `profile --bits` measured it."
    ),
    head_bits=choice(
        "Precision of the output head, 32 also of the embedding; with any, the planner "
        "chooses 16 or 8.",
        {"8": (8,), "16": (16,), "32": (32,), "any": (16, 8)},
        "16",
    ),
    kv_bits=choice(
        "Precision of the key-value cache. 16 keeps it in the type of the activations; "
        "with any, the planner chooses among the measured ones.",
        _EIGHT_OR_SIXTEEN,
        "16",
    ),
    wire_bits=choice(
        "Precision of the hidden states that a stage sends to the next. 16 sends them "
        "in the type of the activations; with any, the planner chooses for each hop.",
        _EIGHT_OR_SIXTEEN,
        "16",
    ),
    tensor=choice(
        "Equal devices of a node that hold one stage together. With measured, the "
        "planner chooses among the numbers that `profile` measured, with --roofline 1; "
        "with any, among 1, 2, 4 and 8, which --roofline predicts.",
        {"measured": (), "1": (1,), "any": ALL_WIDTHS},
        "measured",
    ),
    prefill_micro_batch=option(
        "Number of prompts in a prefill micro-batch (default: the planner chooses).",
        POSITIVE,
    ),
    decode_micro_batch=option(
        "Number of sequences in a decode micro-batch (default: the planner chooses).",
        POSITIVE,
    ),
    pin_layers=option(
        "Place the layers FIRST to END (exclusive) on this device, such as "
        "0:12=node0/cuda:0. May be repeated.",
        _layer_pin,
        multiple=True,
        metavar="FIRST:END=DEVICE",
    ),
    pin_bits=option(
        "Give the layers FIRST to END (exclusive) this precision, such as 0:2=16. May "
        "be repeated.",
        _bits_pin,
        multiple=True,
        metavar="FIRST:END=BITS",
    ),
    use=option(
        "Use this device, whatever the cluster file says. May be repeated.",
        multiple=True,
        metavar="DEVICE",
    ),
    leave_idle=option(
        "Leave this device idle, whatever the cluster file says. May be repeated.",
        multiple=True,
        metavar="DEVICE",
    ),
    round_unquantized=flag(
        "Round matrices too that a quantised checkpoint keeps at 16 bits or more; their "
        "layers are served at 16 bits otherwise."
    ),
)

QUALITY = option_group(
    "Limits on the loss of quality",
    QualityLimits,
    "quality",
    theta=option(
        "Seconds that a unit of quality loss is worth in the objective.",
        FROM_ZERO,
        default=0.0,
    ),
    omega_budget=option(
        "Maximum quality loss, summed over the layers (default: that of all layers at "
        "8 bits).",
        FROM_ZERO,
    ),
    max_ppl_increase=option(
        "Maximum increase of the perplexity, measured on the validation text.",
        ABOVE_ZERO,
    ),
    max_kl=option(
        "Maximum mean KL divergence from the model at 16 bits, in nats per token, "
        "measured on the validation text.",
        ABOVE_ZERO,
    ),
    validation_text=option(
        "UTF-8 text for measured limits. It must not be the text that the sensitivities "
        "were found on.",
        FILE_TEXT,
    ),
    window=WINDOW,
    validation_tokens=option(
        "Number of tokens to read of the validation text, spread over it (default: all).",
        POSITIVE,
    ),
)


def search_limits(*, time_limit_s: float, gap: float, help: str) -> OptionGroup:
    """Makes the options that end a search, with these defaults and the limit's help."""
    return option_group(
        "Search",
        SearchLimits,
        "search",
        time_limit_s=option(
            help,
            ABOVE_ZERO,
            name="--time-limit",
            default=time_limit_s,
            metavar="SECONDS",
        ),
        gap=option(
            "Relative gap between objective and bound at which a plan counts as optimal.",
            FROM_ZERO,
            default=gap,
        ),
    )
