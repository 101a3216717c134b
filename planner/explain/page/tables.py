"""Tables of the page; their columns sort by click or keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.explain.causes import why
from planner.explain.page.markup import Markup, element, join
from planner.units import format_bytes, format_number, format_time

__all__ = ["Column", "alternatives", "collectives", "sizes", "table", "times"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: texts, and numbers that it sorts by if it has them."""

    name: str
    texts: Sequence[str]
    numbers: Sequence[float] | None = None


def table(caption: str,
          columns: Sequence[Column],
          *,
          sortable: bool = False) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Parameters
    ----------
    caption : str
    columns : sequence of Column
        Of equal length.
    sortable : bool
        Whether its heads are buttons.
    """
    head = element("tr", None, [_head(c, sortable) for c in columns])
    rows = [
        element("tr", None, [_cell(c, n) for c in columns])
        for n in range(len(columns[0].texts))
    ]
    whole = element("table", {"class": "sortable" if sortable else None},
                    element("caption", None, caption),
                    element("thead", None, head), element("tbody", None, rows))
    return element("div", {
        "class": "wide",
        "role": "region",
        "tabindex": 0,
        "aria-label": caption
    }, whole)


def _head(column: Column, sortable: bool) -> Markup:
    kind = "number" if column.numbers is not None else None
    name: str = column.name
    if sortable:
        name = element("button", {"type": "button"}, column.name)
    return element("th", {"scope": "col", "class": kind}, name)


def _cell(column: Column, row: int) -> Markup:
    if column.numbers is None:
        return element("td", None, column.texts[row])
    return element("td", {
        "class": "number",
        "data-value": f"{column.numbers[row]:.9g}"
    }, column.texts[row])


def times(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> Column:
    """A column of times."""
    return Column(name=name,
                  texts=[format_time(r[key]) for r in rows],
                  numbers=[r[key] for r in rows])


def sizes(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> Column:
    """A column of bytes."""
    return Column(name=name,
                  texts=[format_bytes(r[key]) for r in rows],
                  numbers=[r[key] for r in rows])


def alternatives(report: Mapping[str, Any]) -> Markup:
    """What else was considered, and why it was not chosen."""
    rows = report["alternatives"]
    return table("alternatives", [
        Column(name="plan", texts=[r["plan"] for r in rows]),
        times("step", rows, "step_s"),
        sizes("memory", rows, "memory_bytes"),
        Column(name="fits", texts=["yes" if r["fits"] else "no"
                                   for r in rows]),
        Column(name="why not", texts=[why(r) for r in rows]),
    ],
                 sortable=True)


def collectives(block: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The collectives of one block; folds."""
    inside = table(f"collectives of {block}", [
        Column(name="conversion of", texts=[r["value"] for r in rows]),
        Column(name="collective", texts=[r["kind"] for r in rows]),
        Column(name="axis", texts=[r["axis"] for r in rows]),
        Column(name="pass", texts=[r["direction"] for r in rows]),
        sizes("bytes", rows, "bytes"),
        times("time alone", rows, "time_s"),
        Column(name="runs",
               texts=[format_number(r["count"]) for r in rows],
               numbers=[r["count"] for r in rows]),
    ],
                   sortable=True)
    word = "collective" if len(rows) == 1 else "collectives"
    title = f"{block}: {len(rows)} {word}"
    return element("details", None,
                   join(element("summary", None, title), inside))
