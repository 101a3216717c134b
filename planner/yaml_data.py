"""YAML of plain data, in which no key of a mapping stands twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

__all__ = [
    "list_of", "names_of", "read_text", "read_yaml", "real_number",
    "whole_number"
]


class _Loader(yaml.SafeLoader):
    """Refuses what YAML forbids, and PyYAML answers with the last value."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if key.value in seen:
                    raise ConstructorError(
                        None, None, f"the key {key.value!r} stands here a "
                        "second time; leave one of them out", key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(text: str, where: str) -> Any:
    """What a text says, as Python's own types.

    Parameters
    ----------
    text : str
    where : str
        What to call the text in errors, such as its path.

    Raises
    ------
    ValueError
        When it is no YAML, names types that are not plain, or has a key
        twice; with the line.

    Examples
    --------
    >>> read_yaml("{dp: 2, tp: 4}", "mesh.yaml")
    {'dp': 2, 'tp': 4}
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML of plain data: {error}") \
            from None


def read_text(path: str | Path) -> str:
    """What a file says.

    Raises
    ------
    ValueError
        When it is not in UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from None


def list_of(value: Any, where: str) -> list[Any]:
    """What a list holds; nothing where it is left out.

    Raises
    ------
    ValueError
        When it is no list.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got "
                         f"{type(value).__name__}")
    return value


def names_of(value: Any, where: str) -> tuple[str, ...]:
    """A list of names; none where it is left out.

    Raises
    ------
    ValueError
        When it is no list.

    Examples
    --------
    >>> names_of(["a", "b"], "plan.yaml: regather")
    ('a', 'b')
    """
    return tuple(map(str, list_of(value, where)))


def whole_number(value: Any, where: str) -> int:
    """A count or a size.

    Raises
    ------
    ValueError
        When it is anything else.

    Examples
    --------
    >>> whole_number(8, "mesh: dp")
    8
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where}: {value!r} is no whole number")
    return value


def real_number(value: Any, where: str) -> float:
    """A quantity.

    PyYAML reads numbers such as ``1e-05`` as text.

    Raises
    ------
    ValueError
        When it is none.

    Examples
    --------
    >>> real_number("1e-05", "prediction: bound_s")
    1e-05
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {value!r} is no number") from None
