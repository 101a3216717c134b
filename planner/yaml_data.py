"""YAML of plain data, in which no key of a mapping stands twice."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

__all__ = ["read_yaml"]


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
