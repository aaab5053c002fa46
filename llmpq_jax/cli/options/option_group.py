"""Groups of options: a heading in `--help`, and one record for the command's function."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import click


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options under one heading, passed to the command's function as one record.

    Attributes:
        title: Heading in `--help`.
        options: The options, in the order in which help shows them.
        record: Dataclass that is made of the options that are named like its fields; the
            other options are passed one by one, all of them where it is absent.
        parameter: Name of the function's parameter that takes the record.
        is_partial: True if the function takes a dict of the options that were typed,
            instead of a record.
    """

    title: str
    options: tuple[click.Option, ...]
    record: Callable[..., Any] | None = None
    parameter: str = ""
    is_partial: bool = False

    def only(self, *names: str) -> OptionGroup:
        """Returns the group with these options alone."""
        kept = tuple(option for option in self.options if option.name in names)
        return replace(self, options=kept)

    def without_defaults(self, title: str) -> OptionGroup:
        """Returns the group under another heading, its options absent unless typed."""
        options = []
        for option in map(copy, self.options):
            option.default, option.show_default, option.required = None, False, False
            option.help = re.sub(r" \(default: [^)]*\)", "", option.help or "")
            options.append(option)
        return replace(self, title=title, options=tuple(options), is_partial=True)

    def arguments(self, params: dict[str, Any]) -> dict[str, Any]:
        """Returns what the command's function is called with.

        Args:
            params: Values of all the command's options, by name.

        Raises:
            ValueError: The values do not go together.
        """
        values = {str(option.name): params[str(option.name)] for option in self.options}
        if self.record is None:
            return values
        names = {field.name for field in fields(self.record)}  # pyright: ignore[reportArgumentType]
        own = {name: values.pop(name) for name in names & values.keys()}
        if self.is_partial:
            own = {name: value for name, value in own.items() if _is_typed(value)}
            return {self.parameter: own, **values}
        return {self.parameter: self.record(**own), **values}


def _is_typed(value: object) -> bool:
    return value is not None and value is not False and value != ()


class _GroupedCommand(click.Command):
    """A command whose help has a heading for each group of options."""

    def __init__(
        self, *args: Any, parts: Sequence[click.Option | OptionGroup], **options: Any
    ) -> None:
        self.groups = [part for part in parts if isinstance(part, OptionGroup)]
        for part in parts:
            each = part.options if isinstance(part, OptionGroup) else (part,)
            options["params"].extend(each)
        super().__init__(*args, **options)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Writes the groups in their order, then what is in none of them."""
        grouped = [option for group in self.groups for option in group.options]
        rest = [each for each in self.get_params(ctx) if each not in grouped]
        sections = [
            (group.title, list[click.Parameter](group.options)) for group in self.groups
        ]
        for title, params in (
            *sections,
            ("Other options" if sections else "Options", rest),
        ):
            rows = [row for each in params if (row := each.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the command's function with one record for each group."""
        arguments = dict(ctx.params)
        for group in self.groups:
            for option in group.options:
                arguments.pop(str(option.name), None)
            try:
                arguments |= group.arguments(ctx.params)
            except ValueError as error:
                raise click.UsageError(str(error), ctx) from error
        assert self.callback is not None
        return ctx.invoke(self.callback, **arguments)


def command(
    name: str, *parts: click.Option | OptionGroup
) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes a command of a function.

    Args:
        name: Name of the command as it is typed.
        *parts: Options and groups of options, in the order in which help shows them.
    """
    return click.command(name, cls=_GroupedCommand, parts=parts)


def typed_options(context: click.Context) -> set[str]:
    """Returns the names of the options that were typed, such as "--out"."""
    found: set[str] = set()
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        # Of flags that choose among values, the one that was typed.
        is_other_flag = (
            isinstance(parameter, click.Option)
            and parameter.is_flag
            and parameter.flag_value != context.params[name]
        )
        if source is click.core.ParameterSource.COMMANDLINE and not is_other_flag:
            found.add(parameter.opts[0])
    return found
