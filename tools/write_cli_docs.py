"""Writes docs/cli.md from the commands' own help.

Run `python -m tools.write_cli_docs`, with `--check` to compare only.
"""

from __future__ import annotations

import click

from tools import generated

PAGE = "docs/cli.md"
WIDTH = 88

INTRODUCTION = """\
# Commands

<!-- Written by tools/write_cli_docs.py from the commands' own help; edit it there. -->

Results go to stdout, logs and progress to stderr: in a terminal as a bar, else as a line
about once a minute. A command exits with 0, with 1 and one line that says what is wrong, or
with 2 if it was called wrongly; after Ctrl-C with 130, after SIGTERM with 143.

An output that is a device or a pipe is written to where it is, and a symbolic link is followed;
a file appears when it is complete. No output may be a file that the command reads, or another
output: this and whether outputs can be written is checked before the work.
"""


def render() -> str:
    """Returns the page: the program's help, then each command's, in its order."""
    from llmpq_jax.cli import main

    program = click.Context(
        main, info_name="llmpq-jax", terminal_width=WIDTH, **main.context_settings
    )
    parts = [INTRODUCTION, _section("llmpq-jax", main.get_help(program), level=2)]
    parts += _commands(main, program, level=2)
    return "\n".join(parts)


def _commands(group: click.Command, parent: click.Context, *, level: int) -> list[str]:
    if not isinstance(group, click.Group):
        return []
    parts: list[str] = []
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        if command is None or command.hidden:
            continue
        context = click.Context(
            command, info_name=name, parent=parent, terminal_width=WIDTH
        )
        title = context.command_path
        parts.append(_section(title, command.get_help(context), level=level))
        parts += _commands(command, context, level=level + 1)
    return parts


def _section(title: str, text: str, *, level: int) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"{'#' * level} `{title}`\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    generated.run(render, page=PAGE, module="tools.write_cli_docs")
