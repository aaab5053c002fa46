"""Names of the types of fields, in the words of TOML."""

from __future__ import annotations

import dataclasses
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from llmpq_jax.schema.field_types import Bytes

_PLAIN = {int: "integer", float: "number", str: "text", bool: "boolean"}


def type_name(hint: Any) -> str:
    """Returns "integer", "array of numbers", "`8` or `16`" and the like.

    Raises:
        TypeError: If the type has no name here.
    """
    if get_origin(hint) is Annotated:
        # An alias may be added to what makes it a number of bytes.
        if set(get_args(Bytes)) <= set(get_args(hint)):
            return 'bytes: integer, or text such as `"24 GiB"`'
        return type_name(hint.__origin__)
    inner, is_many = record_in(hint)
    if inner is not None:
        return "tables" if is_many else "table"
    if hint in _PLAIN:
        return _PLAIN[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return _choices(arguments)
    if get_origin(hint) is tuple:
        return _array(arguments)
    if get_origin(hint) in {Union, UnionType}:
        return type_name(next(each for each in arguments if each is not NoneType))
    msg = f"{hint} has no name: expected a type that type_names.py knows; add it there"
    raise TypeError(msg)


def record_in(hint: Any) -> tuple[type[Any] | None, bool]:
    """Returns the record that a type holds, if any, and whether it holds several."""
    if get_origin(hint) is Annotated:
        return record_in(hint.__origin__)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint, False
    for argument in get_args(hint):
        inner, _ = record_in(argument)
        if inner is not None:
            return inner, get_origin(hint) is tuple
    return None, False


def _choices(values: tuple[Any, ...]) -> str:
    shown = [f'`"{v}"`' if isinstance(v, str) else f"`{v}`" for v in values]
    if len(shown) == 1:
        return f"always {shown[0]}"
    return f"{', '.join(shown[:-1])} or {shown[-1]}"


def _array(arguments: tuple[Any, ...]) -> str:
    if arguments[-1] is Ellipsis:
        inner = type_name(arguments[0])
        is_word = inner in _PLAIN.values() and inner != "text"
        return f"array of {inner}{'s' if is_word else ''}"
    return f"array of {len(arguments)}: {type_name(arguments[0])} each"
