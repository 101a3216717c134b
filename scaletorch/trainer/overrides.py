"""Values from the command line: ``train.lr=3e-4``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.yaml_data import read_yaml

__all__ = ["overridden"]


def overridden(values: Mapping[str, Any],
               overrides: Sequence[str]) -> dict[str, Any]:
    """A config's mapping with some of its values replaced.

    Parameters
    ----------
    values : mapping
        As the file has it; it stays as it is.
    overrides : sequence of str
        Each ``path.of.key=value``, where the value is YAML. Keys that are
        not there are added: whether they may be is checked later.

    Raises
    ------
    ValueError
        For a text without ``=``, or whose value is no YAML.

    Examples
    --------
    >>> overridden({"train": {"lr": 0.1}}, ["train.steps=5", "plan=ddp"])
    {'train': {'lr': 0.1, 'steps': 5}, 'plan': 'ddp'}
    """
    found = _copied(values)
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"{text!r} is no override; write path.of.key="
                             "value, such as train.lr=3e-4")
        _put(found, keys, _parsed(text, value))
    return found


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: _copied(v) if isinstance(v, Mapping) else v
        for k, v in values.items()
    }


def _parsed(text: str, value: str) -> Any:
    try:
        return read_yaml(value, f"the value of {text!r}")
    except ValueError as error:
        raise ValueError(f"{error}; quote texts with special characters") \
            from None


def _put(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            # A word such as "auto" gives way to what is said in detail.
            inner = values[key] = {}
        values = inner
    values[keys[-1]] = value
