"""`llmpq-jax indicate`: judges what each layer loses at few bits."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.shared_options import (
    GROUP_SIZES,
    OUT_FILE,
    POSITIVE,
    cache_home,
    json_option,
    model_option,
    text_option,
    window_option,
)


@click.command("indicate")
@model_option
@text_option
@click.option(
    "--out",
    type=OUT_FILE,
    required=True,
    metavar="FILE",
    help="The sensitivities, as TOML; a run that was stopped goes on where it was.",
)
@click.option(
    "--method",
    type=click.Choice(["hessian", "variance", "measured", "random"]),
    default="hessian",
    show_default=True,
    help="Second-order estimate from the rounded weights, or from their scales alone; "
    "the loss with only one layer rounded; or a control that knows nothing.",
)
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "clip", "learned", "gptq"]),
    default="nearest",
    show_default=True,
    help="How weights are rounded, judged and served.",
)
@click.option(
    "--rounded",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where weights not rounded to the nearest go; by default beside --out.",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    default="128",
    show_default=True,
    help="Weights that share an int4 scale, at most.",
)
@window_option
@click.option(
    "--most-tokens",
    type=POSITIVE,
    default=16384,
    show_default=True,
    help="Read of the text, spread over it.",
)
@click.option(
    "--assignments",
    type=POSITIVE,
    default=12,
    show_default=True,
    help="Random choices of bits whose measured loss the figures are fitted to.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of whatever is drawn."
)
@json_option
def indicate_command(
    model: Path,
    text: Path,
    out: Path,
    method: str,
    rounding: str,
    rounded: Path | None,
    group_size: str,
    window: int,
    max_tokens: int,
    assignments: int,
    seed: int,
    as_json: bool,
) -> None:
    """Judge what each layer loses at 8 and 4 bits.

    The model passes through one layer at a time, so it may be larger than memory.
    """
    import json
    import tomllib
    from typing import Any

    from llmpq_jax.report.console import say, show
    from llmpq_jax.report.quality import sensitivity_table
    from llmpq_jax.schema.sensitivity_file import write_sensitivity
    from llmpq_jax.schema.toml import to_toml
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.indicate import judge_layers

    keep_compiled(cache_home())
    chosen: Any = {"method": method, "rounding": rounding}
    if rounding != "nearest":
        chosen["rounded"] = rounded or out.with_name(f"{out.stem}-{rounding}")
    sensitivity = judge_layers(
        model,
        text,
        work=out.with_name(f".{out.name}.work"),
        group_size=GROUP_SIZES[int(group_size)],
        window=window,
        max_tokens=max_tokens,
        num_assignments=assignments,
        seed=seed,
        **chosen,
    )
    write_sensitivity(out, sensitivity)
    if as_json:
        say(json.dumps(tomllib.loads(to_toml(sensitivity)), indent=2))
        return
    show(sensitivity_table(sensitivity))
    if "rounded" in chosen:
        say(f"rounded      {chosen['rounded']}")
    say(f"written      {out}")
