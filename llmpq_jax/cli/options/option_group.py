"""Options described once: by a record's fields, or by the names of a function's parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, dataclass_transform

import click

from llmpq_jax.cli.options.paths import PathOption, check_paths

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Described:
    """Options of one parameter, which names them.

    Attributes:
        value: Value of a record that is made without them.
        forms: Name as it is typed and arguments of `click.Option`, of each option; no
            name for the parameter's, with dashes.
    """

    value: Any
    forms: tuple[tuple[str, Mapping[str, Any]], ...]

    def named(self, parameter: str) -> list[click.Option]:
        dashed = f"--{parameter.replace('_', '-')}"
        return [
            click.Option([name or dashed, parameter], **settings)
            for name, settings in self.forms
        ]


def option(help: str, type: Any = None, *, name: str = "", **settings: Any) -> Any:
    """Describes an option, as a field of an `option_record` or for an `option_group`.

    Args:
        help: Text for `--help`.
        type: Type as click has it; by default that of the default, or text.
        name: Name as it is typed; by default the parameter's, with dashes.
        **settings: Other arguments of `click.Option`.
    """
    if isinstance(type, click.Path | click.File) and not isinstance(type, PathOption):
        msg = f"{type!r} is not checked: expected a type of cli/options/paths.py"
        raise TypeError(msg)
    value = settings.get("default", () if settings.get("multiple") else None)
    shown = {"show_default": value not in (None, ()), "help": help, "type": type}
    return _Described(value=value, forms=((name, shown | settings),))


def flag(help: str, *, name: str = "") -> Any:
    """Describes an option without a value, which is true if it is typed."""
    return _Described(value=False, forms=((name, {"help": help, "is_flag": True}),))


def flags(**helps: str) -> Any:
    """Describes options of one parameter, whose value is the name of the one typed."""
    forms = [
        (f"--{word}", {"help": help, "flag_value": word})
        for word, help in helps.items()
    ]
    return _Described(value=None, forms=tuple(forms))


def choice(
    help: str, values: Mapping[str, Any], default: str, *, name: str = ""
) -> Any:
    """Describes an option that takes one of several words, each of which means a value.

    Args:
        help: Text for `--help`.
        values: Values by the word that is typed.
        default: Word whose value is the default.
        name: Name as it is typed; by default the parameter's, with dashes.
    """
    described = option(
        help,
        click.Choice(list(values)),
        name=name,
        default=default,
        callback=lambda _context, _parameter, word: values.get(word),
    )
    return replace(described, value=values[default])


@dataclass_transform(kw_only_default=True, frozen_default=True)
def option_record(made: type[T]) -> type[T]:
    """Makes a dataclass of a class whose attributes are options, for `option_group`."""
    for name, described in list(vars(made).items()):
        if isinstance(described, _Described):
            metadata = {"option": described}
            setattr(made, name, field(default=described.value, metadata=metadata))
    return dataclass(frozen=True, kw_only=True)(made)


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options under one heading in help, passed to the command's function as one record.

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


def option_group(
    title: str,
    record: Callable[..., Any] | None = None,
    parameter: str = "",
    /,
    **described: Any,
) -> OptionGroup:
    """Makes a group of the options that describe a record's fields, and of others.

    Args:
        title: Heading in `--help`.
        record: Record that is made of options; None to pass each by itself.
        parameter: Name of the function's parameter that takes the record.
        **described: Options by the name of the record's field or of the parameter.
    """
    if record is not None:
        for each in fields(record):  # pyright: ignore[reportArgumentType]
            if "option" in each.metadata:
                described[each.name] = each.metadata["option"]
    options = [made for name, each in described.items() for made in each.named(name)]
    return OptionGroup(
        title=title, options=tuple(options), record=record, parameter=parameter
    )


def _is_typed(value: object) -> bool:
    return value is not None and value is not False and value != ()


class _GroupedCommand(click.Command):
    """A command whose help has a heading for each group of options."""

    def __init__(
        self,
        *args: Any,
        groups: tuple[OptionGroup, ...],
        rest: list[click.Option],
        **options: Any,
    ) -> None:
        self.groups = groups
        for group in groups:
            options["params"].extend(group.options)
        options["params"].extend(rest)
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
        sections.append(("Other options" if sections else "Options", rest))
        for title, params in sections:
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
        check_paths(self, ctx.params)
        assert self.callback is not None
        return ctx.invoke(self.callback, **arguments)


def command(
    name: str, /, *groups: OptionGroup, **described: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Makes a command of a function.

    Args:
        name: Name of the command as it is typed.
        *groups: Groups of options, in the order in which help shows them.
        **described: Options in no group, by the name of the function's parameter.
    """
    rest = [made for name, each in described.items() for made in each.named(name)]
    return click.command(name, cls=_GroupedCommand, groups=groups, rest=rest)
