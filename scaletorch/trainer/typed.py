"""Frozen dataclasses from plain mappings and back, with checked types."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from planner.names import nearest

__all__ = ["described", "from_mapping", "to_mapping"]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")

_PLAIN = {bool: "true or false", int: "a whole number", str: "a text"}


def from_mapping(cls: type[Made],
                 values: Mapping[str, Any],
                 path: str = "") -> Made:
    """Make a dataclass, and those inside of it.

    Parameters
    ----------
    cls : type
        A dataclass whose fields have the types that ``described`` knows.
    values : mapping of str to object
        As a YAML file gives them.
    path : str
        Where the mapping stands in the file, for messages.

    Raises
    ------
    ValueError
        For unknown or missing keys, and values of the wrong type, with the
        path of the key. What the dataclass itself refuses begins with the
        field's name and gets the path in front.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            where = f" in {path}" if path else ""
            raise ValueError(f"there is no key {str(key)!r}{where}: "
                             f"{nearest(str(key), fields)}")
    for name, field in fields.items():
        if name not in values and _required(field):
            raise ValueError(f"{_join(path, name)} is missing; give it "
                             f"{described(hints[name])}")
    made = {
        name: _converted(hints[name], value, _join(path, name))
        for name, value in values.items()
    }
    try:
        return cls(**made)
    except ValueError as error:
        raise ValueError(_join(path, str(error))) from None


def to_mapping(value: Any) -> Any:
    """Dataclasses as mappings and tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value):
        return {
            f.name: to_mapping(getattr(value, f.name))
            for f in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {k: to_mapping(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_mapping(v) for v in value]
    return value


def described(hint: Any) -> str:
    """What values of a type are, in words.

    Examples
    --------
    >>> described(int | None)
    'a whole number or null'
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return "anything"
    if hint is type(None):
        return "null"
    if hint is float:
        return "a number"
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(map(described, args))
    if origin is tuple:
        return f"a list, each {described(args[0])}"
    if dataclasses.is_dataclass(hint) or origin is not None and issubclass(
            origin, Mapping):
        return "a mapping"
    raise AssertionError(f"a config has no fields of the type {hint}")


def _required(field: dataclasses.Field[Any]) -> bool:
    return (field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _converted(hint: Any, value: Any, path: str) -> Any:
    """The value as its field holds it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_that_fits(args, value, path)
    if hint is Any or hint is type(None) and value is None:
        return value
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(
            _converted(args[0], v, f"{path}[{i}]")
            for i, v in enumerate(value))
    if isinstance(value, Mapping):
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return from_mapping(hint, value, path)
        if origin is not None and issubclass(origin, Mapping):
            return {
                str(k): _converted(args[1], v, _join(path, str(k)))
                for k, v in value.items()
            }
    if hint is float:
        number = _number(value)
        if number is not None:
            return number
    elif hint in _PLAIN and type(value) is hint:
        return value
    raise ValueError(_refusal(hint, value, path))


def _first_that_fits(hints: tuple[Any, ...], value: Any, path: str) -> Any:
    for hint in hints:
        try:
            return _converted(hint, value, path)
        except ValueError:
            if isinstance(value, Mapping) and "mapping" in described(hint):
                raise
    raise ValueError(_refusal(Union[hints], value, path))


def _number(value: Any) -> float | None:
    """YAML 1.1 reads 3e-4, which has no dot, as a text."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _refusal(hint: Any, value: Any, path: str) -> str:
    text = f"{path} must be {described(hint)}, got {value!r}"
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        text += f"; {nearest(value, map(str, typing.get_args(hint)))}"
    return text
