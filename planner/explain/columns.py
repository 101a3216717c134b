"""Rows of text in columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["clip", "table", "wrapped"]

_WIDTH = 96
"""Of a line of text that is wrapped."""


def table(rows: Sequence[Sequence[str]], *,
          right: Iterable[int] = ()) -> Iterator[str]:
    """Rows in columns; those in `right` are set flush right."""
    right = set(right)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.rjust(w) if i in right else c.ljust(w)
                 for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield "  " + "  ".join(cells).rstrip()


def wrapped(text: str, *, indent: int = 0, hanging: int = 2) -> list[str]:
    """Lines of a text, the first indented and the others `hanging` more."""
    return textwrap.wrap(text,
                         _WIDTH,
                         break_long_words=False,
                         initial_indent=" " * indent,
                         subsequent_indent=" " * (indent + hanging))


def clip(text: str, width: int) -> str:
    """The end of a text that is too long."""
    return text if len(text) <= width else "..." + text[3 - width:]
