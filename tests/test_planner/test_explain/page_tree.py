"""A page as a tree, and what its tables, charts and lists say."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Element", "Mark", "parsed", "quantity"]

_UNITS = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "B": 1.0,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30
}


def quantity(text: str) -> float:
    """A time or a size as it is printed, in seconds or bytes."""
    number, unit = text.split(" ")
    return float(number) * _UNITS[unit]


@dataclass(slots=True, kw_only=True)
class Element:
    """One element."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text
                       for c in self.children)

    def all(self, tag: str, **attributes: str) -> Iterator[Element]:
        """Those inside that are of a tag and have some attributes."""
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and attributes.items(
                ) <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag: str, **attributes: str) -> Element:
        (found, ) = self.all(tag, **attributes)
        return found

    def section(self, name: str) -> Element:
        return self.one("section", id=name)

    def figures(self) -> dict[str, tuple[str, str]]:
        """Key figures: by name, the number and the note."""
        found = {}
        for part in self.one("dl").all("div"):
            value, note = (d.text for d in part.all("dd"))
            found[part.one("dt").text] = (value, note)
        return found

    def table(self, caption: str) -> list[dict[str, str]]:
        """Its rows, by the names of columns."""
        (found, ) = (t for t in self.all("table")
                     if t.one("caption").text == caption)
        heads = [h.text for h in found.all("th")]
        return [
            dict(zip(heads, (c.text for c in row.all("td")), strict=True))
            for row in found.one("tbody").all("tr")
        ]

    def sorted_by(self, caption: str, column: str) -> list[float]:
        """The numbers that a column sorts by."""
        (found, ) = (t for t in self.all("table")
                     if t.one("caption").text == caption)
        number = [h.text for h in found.all("th")].index(column)
        return [
            float(list(row.all("td"))[number].attributes["data-value"])
            for row in found.one("tbody").all("tr")
        ]

    def chart(self, name: str) -> Chart:
        (svg, ) = (s for s in self.all("svg")
                   if s.attributes["aria-label"] == name)
        return Chart(svg)

    def has_chart(self, name: str) -> bool:
        return any(s.attributes["aria-label"] == name for s in self.all("svg"))

    def lists(self) -> dict[str, list[str]]:
        """By heading, the items of the list below it."""
        found: dict[str, list[str]] = {}
        head = ""
        for child in self.children:
            if isinstance(child, Element) and child.tag == "h3":
                head = child.text
            elif isinstance(child, Element) and child.tag == "ul":
                found[head] = [i.text for i in child.all("li")]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A mark of a chart: what it says, and where it is."""

    label: str
    attributes: dict[str, str]

    @property
    def center(self) -> tuple[float, float]:
        """Of a dot or a diamond."""
        own = self.attributes
        if "cx" in own:
            return float(own["cx"]), float(own["cy"])
        match = re.match(r"M([\d.]+) ([\d.]+)l9 9", own["d"])
        assert match is not None, own["d"]
        return float(match[1]), float(match[2]) + 9

    @property
    def span(self) -> tuple[float, float]:
        """Start and end of a bar."""
        start = float(self.attributes["x"])
        return start, start + float(self.attributes["width"])


class Chart:
    """Marks, texts and scales of a chart."""

    def __init__(self, svg: Element) -> None:
        self.svg = svg
        inside = svg.one("g", role="list")
        self.marks = [
            Mark(label=e.attributes["aria-label"], attributes=e.attributes)
            for e in inside.children
            if isinstance(e, Element) and "aria-label" in e.attributes
        ]
        self.labels = [m.label for m in self.marks]
        self.texts = [t.text for t in svg.all("text")]

    def across(self, value: float) -> float:
        """Where a number lies from left to right, by the ticks."""
        return self._place(value, "middle", "x")

    def upwards(self, value: float) -> float:
        return self._place(value, "end", "y")

    def line(self, name: str) -> Element | None:
        """The dashed line that a text names, if there is one."""
        own = [c for c in self.svg.children if isinstance(c, Element)]
        for line, text in zip(own, own[1:]):
            if line.attributes.get("class") == "limit" and text.text == name:
                return line
        return None

    def _place(self, value: float, anchor: str, key: str) -> float:
        ticks = []
        for text in self.svg.all("text", **{
                "class": "tick",
                "text-anchor": anchor
        }):
            if re.fullmatch(r"[\d.e+]+ [a-zA-Z]+", text.text):
                shift = 4.0 if key == "y" else 0.0
                ticks.append(
                    (quantity(text.text), float(text.attributes[key]) - shift))
        (low, a), (high, b) = ticks[0], ticks[-1]
        return a + (b - a) * (self._share(value, low, high, ticks))

    def _share(self, value: float, low: float, high: float,
               ticks: list[tuple[float, float]]) -> float:
        (_, a), (_, b) = ticks[0], ticks[-1]
        middle, at = ticks[1]
        if len(ticks) > 2 and math.isclose(
            (at - a) / (b - a),
                math.log(middle / max(low, 1e-300)) /
                math.log(high / max(low, 1e-300)),
                abs_tol=0.01):
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


class _Parser(HTMLParser):
    """Builds the tree."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element(tag="")
        self.open = [self.root]

    def handle_starttag(self, tag: str,
                        attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag=tag,
                       attributes={
                           n: "" if v is None else v
                           for n, v in attrs
                       })
        self.open[-1].children.append(made)
        if tag not in ("meta", "br", "hr"):
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Element:
    """The tree of a page."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    return parser.root
