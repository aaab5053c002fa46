"""`python -m tools.quality`: runs one experiment."""

from __future__ import annotations

from importlib import import_module

import click

from llmpq_jax.sensitivity.job import METHODS, Method

_EXPERIMENTS = ("operators", "assignments", "memory", "rounding", "promise")


@click.command()
@click.argument("experiment", type=click.Choice(_EXPERIMENTS))
@click.option(
    "--max-tokens", default=16384, show_default=True, help="Tokens read of each text."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(METHODS),
    help="Methods to compare in `assignments` (default: all).",
)
def main(
    experiment: str, max_tokens: int, seed: int, methods: tuple[Method, ...]
) -> None:
    """Runs an experiment and prints its figures."""
    if methods and experiment != "assignments":
        msg = "--method is an option of `assignments` only"
        raise click.UsageError(msg)
    chosen = {"methods": methods} if methods else {}
    import_module(f"tools.quality.{experiment}").run(max_tokens, seed, **chosen)


if __name__ == "__main__":
    main()
