"""Parts that the charts share: frames, axes, legends, colors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from planner.explain.page.markup import Markup, element, join
from planner.explain.page.scale import Scale

__all__ = [
    "WIDTH", "axis_color", "color_of", "figure", "horizontal_axis", "legend",
    "mark", "text"
]

WIDTH = 960.0
"""Of every chart, in units of its own; the page scales it."""

_COLORS = {
    "forward": 0,
    "backward": 1,
    "input gradient": 1,
    "weight gradient": 5,
    "forward again": 4,
    "local copies": 7,
    "once a step": 3,
    "message": 6,
    "waiting": 8,
    "parameters": 0,
    "gradients": 1,
    "optimizer": 2,
    "activations": 3,
    "gathered parameters": 4,
    "transient": 5,
    "outputs": 6,
    "unreduced gradients": 7,
}
_AXES = (3, 6, 5, 4)


def color_of(kind: str) -> str:
    """The class of a kind of work or memory."""
    return f"c{_COLORS[kind]}"


def axis_color(number: int) -> str:
    """The class of communication over a mesh axis, by its number."""
    return f"c{_AXES[number % len(_AXES)]}"


def text(content: str,
         x: float,
         y: float,
         *,
         anchor: str = "start",
         kind: str | None = None) -> Markup:
    """Text on a chart; `kind` is a class of the page's style."""
    return element("text", {
        "x": x,
        "y": y,
        "text-anchor": anchor,
        "class": kind
    }, content)


def mark(tag: str, attributes: Mapping[str, object], label: str,
         first: bool) -> Markup:
    """A point or bar that can be reached by keyboard and says its name.

    One mark of a chart is in the order of tabs; arrows go to the others.
    """
    return element(
        tag, {
            **attributes, "role": "listitem",
            "tabindex": 0 if first else -1,
            "aria-label": label
        })


def horizontal_axis(scale: Scale, y: float, top: float,
                    form: Callable[[float], str]) -> Iterator[Markup]:
    """Ticks below a chart, and light lines up to its top."""
    for value in scale.ticks():
        x = scale(value)
        yield element("line", {
            "x1": x,
            "x2": x,
            "y1": top,
            "y2": y,
            "class": "grid"
        })
        yield text(form(value), x, y + 16, anchor="middle", kind="tick")


def figure(name: str, height: float, parts: Iterable[str],
           marks: Iterable[str]) -> Markup:
    """A chart with a line below it for what is pointed at."""
    inner = element("g", {
        "role": "list",
        "aria-label": name,
        "class": "marks"
    }, marks)
    svg = element(
        "svg", {
            "viewBox": f"0 0 {WIDTH:g} {height:g}",
            "role": "group",
            "aria-label": name
        }, parts, inner)
    return element("figure", {"class": "chart"}, svg,
                   element("p", {
                       "class": "readout",
                       "aria-live": "polite"
                   }))


def legend(entries: Mapping[str, str]) -> Markup:
    """Names to classes of colors."""
    items = (element(
        "li", None,
        join(
            element("span", {
                "class": f"swatch {color}",
                "aria-hidden": "true"
            }), name)) for name, color in entries.items())
    return element("ul", {"class": "legend"}, items)
