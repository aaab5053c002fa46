"""`python -m tools.quality`: one experiment."""

from __future__ import annotations

from importlib import import_module

import click

_EXPERIMENTS = ("operators", "assignments", "memory", "rounding", "promise")


@click.command()
@click.argument("experiment", type=click.Choice(_EXPERIMENTS))
@click.option("--most-tokens", default=16384, show_default=True, help="Of each text.")
@click.option("--seed", default=0, show_default=True)
def main(experiment: str, most_tokens: int, seed: int) -> None:
    """Runs an experiment and prints its figures."""
    import_module(f"tools.quality.{experiment}").run(most_tokens, seed)


if __name__ == "__main__":
    main()
