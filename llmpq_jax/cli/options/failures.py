"""Options that say what happens to a run when a worker or a device fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from llmpq_jax.cli.options.option_group import flag, option, option_group, option_record
from llmpq_jax.cli.options.shared import FILE_TEXT

_SOURCES = ("cluster", "measurements", "sensitivity")


def _source(name: str) -> Any:
    return option(
        f"For --on-loss resolve: {name} file to use instead of the one in the "
        "strategy's [request].",
        FILE_TEXT,
    )


@option_record
class FailureOptions:
    """Options about failures, as typed."""

    on_loss: Literal["restart", "resolve", "stop"] = option(
        "What to do when a worker fails. restart: start it again, and end the run if "
        "that is not possible. resolve: the same, but instead of ending the run, solve "
        "the strategy's [request] again without the failed devices. stop: end the run "
        "at once.",
        click.Choice(["restart", "resolve", "stop"]),
        default="restart",
    )
    restart_unfinished: bool = flag(
        "After --on-loss resolve, start unfinished requests again from their prompts. "
        "Without it they continue with the tokens that they have."
    )
    cluster: str | None = _source("cluster")
    measurements: str | None = _source("measurements")
    sensitivity: str | None = _source("sensitivity")

    @property
    def sources(self) -> dict[str, Any]:
        """Sources that replace those of the strategy's request, by name."""
        named = {name: getattr(self, name) for name in _SOURCES}
        return {name: path for name, path in named.items() if path is not None}

    def check(self, *, engine: str, out: Path | None) -> None:
        """Refuses options that have no effect."""
        if self.on_loss != "restart" and engine != "ray":
            msg = f"--on-loss {self.on_loss} is for --engine ray: expected both or neither"
            raise click.UsageError(msg)
        if self.on_loss == "resolve":
            if out is None:
                msg = "--on-loss resolve writes the new plan next to the results: expected --out"
                raise click.UsageError(msg)
            return
        needless = [f"--{name}" for name in self.sources]
        if self.restart_unfinished:
            needless.insert(0, "--restart-unfinished")
        if needless:
            msg = f"{needless[0]} is for --on-loss resolve: expected both or neither"
            raise click.UsageError(msg)


FAILURES = option_group("Failures under Ray", FailureOptions, "failures")
