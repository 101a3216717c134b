"""Whether the values of a config fit what a callable is annotated with."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

__all__ = ["check_least", "check_values"]

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "null"
}


def check_values(make: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Refuse values of another type than a callable's parameters.

    Parameters
    ----------
    make : callable
        A class stands for its ``__init__``. What is not annotated, or with
        types that YAML does not have, takes anything.
    values : mapping of str to object
        As a YAML file gives them; names that `make` does not have are
        left out.

    Raises
    ------
    ValueError
        Beginning with the value's name.

    Examples
    --------
    >>> def crop(*, size: int = 224): ...
    >>> check_values(crop, {"size": "big"})
    Traceback (most recent call last):
        ...
    ValueError: size must be a whole number, got 'big'
    """
    try:
        known = inspect.signature(make, eval_str=True).parameters
    except NameError:
        # A source of the user's may name types that only checkers import.
        return
    for name, value in values.items():
        hint = known[name].annotation if name in known else Any
        if not _fits(hint, value):
            raise ValueError(f"{name} must be {_described(hint)}, got "
                             f"{value!r}")


def check_least(least: int, **values: int) -> None:
    """Refuse what is no whole number, and numbers that are too small.

    Raises
    ------
    ValueError
        Beginning with the number's name.
    """
    for name, value in values.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a number from {least} on, got "
                             f"{value!r}")


def _fits(hint: Any, value: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(a, value) for a in args)
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(
            _fits(args[0], v) for v in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(args[1], v) for v in value.values())
    if hint is float:
        return type(value) in (int, float)
    return hint not in _WORDS or type(value) is hint


def _described(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, args))
    if origin is Sequence:
        return f"a list, each {_described(args[0])}"
    if origin is Mapping:
        return f"a mapping, each {_described(args[1])}"
    return _WORDS.get(hint, str(hint))
