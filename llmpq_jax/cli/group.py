"""The group of all commands: its options, and how errors are shown."""

from __future__ import annotations

import errno
import shlex
import signal
from typing import IO, Any

import click

from llmpq_jax import __version__
from llmpq_jax.errors import LlmpqError
from llmpq_jax.interrupts import TerminatedError, check_interrupt

_COMMAND_KEY = "llmpq_jax.command"


class Failure(click.ClickException):
    """An error that the user can act on, shown in one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Writes the line to stderr."""
        click.echo(f"error: {self.format_message()}", file=file, err=True)


class _Commands(click.Group):
    """Lists commands in the order in which they are used, and shows errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Keeps the order in which they were added."""
        return list(self.commands)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Remembers the command as typed, for provenance."""
        typed = shlex.join(["llmpq-jax", *args])
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_COMMAND_KEY] = typed
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; bugs keep their traceback, with --debug all errors do."""
        try:
            return self._run(ctx)
        except (KeyboardInterrupt, TerminatedError) as reason:
            if ctx.params["debug"]:
                raise
            click.echo(f"error: {str(reason) or 'interrupted'}", err=True)
            ctx.exit(getattr(reason, "exit_code", 128 + signal.SIGINT))

    def _run(self, ctx: click.Context) -> Any:
        try:
            check_interrupt()
            done = super().invoke(ctx)
        except (LlmpqError, OSError) as error:
            # A signal may be what led to it, as where a child process had it too.
            check_interrupt()
            # click handles a closed pipe: the command ends without a message.
            if ctx.params["debug"] or getattr(error, "errno", None) == errno.EPIPE:
                raise
            raise Failure(_one_line(error)) from error
        check_interrupt()
        return done


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmpq-jax")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Serve one language model over devices that differ in memory and speed.

    Describe your devices (devices), measure a model on each (profile), plan cuts, bits
    and micro-batches together (solve), and run the plan as a pipeline (generate). The
    command quickstart does all of it with the model that ships in examples/.
    """
    del debug  # read where errors are shown


def command_as_typed() -> str:
    """Returns the running command line, as the user typed it."""
    return click.get_current_context().meta[_COMMAND_KEY]


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    from llmpq_jax.report.names import printable

    return printable(" ".join(str(error).split("\n")))
