"""Attribute names that are no Python names, in the code of graphs."""

from __future__ import annotations

import contextlib
import keyword
from collections.abc import Iterator

from torch.fx import graph

__all__ = ["any_name"]


def _attribute(base: str, path: str) -> str:
    """An expression for the attribute at `path` below `base`.

    >>> _attribute("self", 'heads.class.q"1.weight')
    'getattr(getattr(self.heads, \\'class\\'), \\'q"1\\').weight'
    """
    text = base
    for name in path.split("."):
        plain = name.isidentifier() and not keyword.iskeyword(name)
        text = f"{text}.{name}" if plain else f"getattr({text}, {name!r})"
    return text


@contextlib.contextmanager
def any_name() -> Iterator[None]:
    """Let modules have any name while a graph is made of them.

    torch.fx writes ``self.class``, and puts quotes around names as they
    are.
    """
    original = graph._format_target
    graph._format_target = _attribute
    try:
        yield
    finally:
        graph._format_target = original
