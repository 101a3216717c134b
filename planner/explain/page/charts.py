"""The charts of the page, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.explain.page.marks import (WIDTH, axis_color, color_of, figure,
                                        horizontal_axis, legend, mark, text)
from planner.explain.page.markup import Markup, element, join
from planner.explain.page.scale import Scale, scale_of
from planner.explain.timeline import COMPUTE, Span, Timeline
from planner.units import format_bytes, format_time

__all__ = ["BarRow", "search_space", "stacked_bars", "step_chart"]

_LEFT, _RIGHT = 150.0, 16.0
_SHOWN = 3.0
"""Times the chosen plan, that the search space is drawn up to."""
_TOTAL = 90.0
"""Room for a bar's total beside it."""
_LETTER = 6.4
"""About the width of a letter in a chart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRow:
    """One bar of parts: (name, size, class of its color).

    Beside it is their sum, or the number that is told instead.
    """

    name: str
    parts: Sequence[tuple[str, float, str]]
    told: float | None = None

    @property
    def total(self) -> float:
        return sum(size for _, size, _ in self.parts)

    @property
    def beside(self) -> float:
        return self.total if self.told is None else self.told


def step_chart(timeline: Timeline, axes: Sequence[str]) -> Markup:
    """What each rank computes and sends, over the time of a step.

    Parameters
    ----------
    timeline : Timeline
    axes : sequence of str
        Of the mesh; their numbers give their colors.
    """
    known = {f"communication {a}": axis_color(n) for n, a in enumerate(axes)}
    colors = {
        kind: known.get(kind) or color_of(kind)
        for kind in dict.fromkeys(s.kind for s in timeline.spans)
    }
    tall = 24.0 if len(timeline.ranks) <= 16 else 12.0
    low, gap = tall / 2, tall / 3
    row = tall + low + gap
    bottom = 8 + row * len(timeline.ranks)
    scale = Scale(low=0.0,
                  high=max(timeline.end_s, 1e-30),
                  start=_LEFT,
                  end=WIDTH - _TOTAL)
    parts: list[Markup] = list(horizontal_axis(scale, bottom, 4, format_time))
    for rank, name in enumerate(timeline.ranks):
        y = 8 + row * rank
        parts.append(text(name, _LEFT - 8, y + tall * 0.7, anchor="end"))
    bars: list[Markup] = []
    labels: list[Markup] = []
    for number, span in enumerate(timeline.spans):
        is_compute = span.stream == COMPUTE
        y = 8 + row * span.rank + (0 if is_compute else tall + 1)
        bars.append(
            _span(span, colors[span.kind], scale, y,
                  tall if is_compute else low, number == 0))
        if is_compute and tall > 20:
            labels += _label(span, scale, y + tall * 0.68)
    chart = figure("the step in time", bottom + 26, parts, bars + labels)
    return join(legend(colors), chart)


def _span(span: Span, color: str, scale: Scale, y: float, height: float,
          first: bool) -> Markup:
    x = scale(span.start_s)
    return mark(
        "rect", {
            "x": round(x, 2),
            "y": round(y, 2),
            "width": round(max(1.0,
                               scale(span.end_s) - x), 2),
            "height": round(height, 2),
            "class": color
        }, f"{span.name}: {format_time(span.end_s - span.start_s)} from "
        f"{format_time(span.start_s)}", first)


def _label(span: Span, scale: Scale, y: float) -> Iterator[Markup]:
    """In the middle of a bar that has room for it."""
    start, end = scale(span.start_s), scale(span.end_s)
    if span.label and end - start > _LETTER * (len(span.label) + 1):
        yield element(
            "text", {
                "x": round((start + end) / 2, 2),
                "y": round(y, 2),
                "text-anchor": "middle",
                "class": "inside",
                "aria-hidden": "true"
            }, span.label)


def stacked_bars(name: str,
                 rows: Sequence[BarRow],
                 form: Callable[[float], str],
                 *,
                 base: float = 10.0,
                 limit: tuple[str, float] | None = None) -> Markup:
    """One bar a row, and maybe a line that they must not pass.

    Parameters
    ----------
    name : str
        What the chart shows.
    rows : sequence of BarRow
    form : callable
        Prints a size.
    base : float
        Of round numbers.
    limit : tuple of (str, float), optional
        A name and a size.
    """
    largest = max([r.total for r in rows] + ([limit[1]] if limit else []))
    scale = Scale(low=0.0,
                  high=max(largest, 1e-30) * 1.02,
                  start=_LEFT,
                  end=WIDTH - _TOTAL,
                  base=base)
    top = 22.0 if limit else 6.0
    bottom = top + 28.0 * len(rows)
    parts: list[Markup] = list(horizontal_axis(scale, bottom, top - 2, form))
    bars: list[Markup] = []
    for number, row in enumerate(rows):
        y = top + 28.0 * number + 4
        parts.append(text(_clip(row.name), _LEFT - 8, y + 14, anchor="end"))
        parts.append(text(form(row.beside), scale(row.total) + 6, y + 14))
        bars += _bar(row, scale, y, form, number == 0)
    if limit:
        parts += _limit(limit[0], scale(limit[1]), top, bottom)
    colors = {n: c for r in rows for n, s, c in r.parts if s}
    return join(legend(colors), figure(name, bottom + 26, parts, bars))


def _clip(name: str) -> str:
    return name if len(name) <= 21 else name[:19] + "..."


def _bar(row: BarRow, scale: Scale, y: float, form: Callable[[float], str],
         first: bool) -> Iterator[Markup]:
    done = 0.0
    for name, size, color in row.parts:
        if not size:
            continue
        x = scale(done)
        done += size
        yield mark(
            "rect", {
                "x": x,
                "y": y,
                "width": max(0.5,
                             scale(done) - x),
                "height": 20,
                "class": color
            }, f"{row.name}, {name}: {form(size)}", first)
        first = False


def _limit(name: str, x: float, top: float, bottom: float) -> Iterator[Markup]:
    yield element("line", {
        "x1": x,
        "x2": x,
        "y1": top - 4,
        "y2": bottom,
        "class": "limit"
    })
    yield text(name, x, top - 8, anchor="end", kind="tick")


def search_space(candidates: Sequence[Mapping[str, Any]],
                 scored: Sequence[Mapping[str, Any]], limit_bytes: float,
                 bound_s: float) -> Markup:
    """Every candidate: its time to the right, its memory upwards.

    What takes several times as much as the chosen one lies at the edge.

    Parameters
    ----------
    candidates : sequence of mapping
        With `plan`, `step_s`, `memory_bytes` and `fits`; the first is the
        chosen one.
    scored : sequence of mapping
        Splits of which no plan was priced: `mesh`, `least_step_s`,
        `memory_bytes` and `fits`.
    limit_bytes, bound_s : float
        Lines, where they are within the chart.
    """
    height = 360.0
    chosen = candidates[0]
    most_s = _SHOWN * chosen["step_s"]
    most_bytes = _SHOWN * max(chosen["memory_bytes"], limit_bytes)
    every = [*candidates, *scored]
    times = scale_of([
        bound_s, *(min(c["step_s"], most_s)
                   for c in candidates), *(min(c["least_step_s"], most_s)
                                           for c in scored)
    ],
                     start=_LEFT - 60,
                     end=WIDTH - _RIGHT - 20)
    sizes = scale_of([min(c["memory_bytes"], most_bytes) for c in every],
                     start=height - 44,
                     end=14,
                     base=2)
    bottom = sizes.start
    parts = [*horizontal_axis(times, bottom, 14, format_time)]
    parts += _levels(sizes, times)
    parts.append(
        text("time of a step",
             times.end,
             bottom + 34,
             anchor="end",
             kind="tick"))
    parts.append(text("memory of a rank", 0, 8, kind="tick"))
    if sizes.low < limit_bytes < sizes.high:
        y = sizes(limit_bytes)
        parts += _line("memory limit", times.start, times.end, y, y)
    if times.low < bound_s < times.high:
        x = times(bound_s)
        parts += _line("bound", x, x, bottom, 14)
    # The chosen one comes last, so that no other hides it.
    points = [_split(c, times, sizes) for c in scored]
    points += [
        _point(c, times, sizes, number) for number, c in enumerate(candidates)
    ][::-1]
    return join(
        legend({
            "chosen": "chosen",
            "fits in memory": "fits",
            "does not fit": "over",
            **({
                "not priced, at least": "scored"
            } if scored else {})
        }),
        figure("every candidate, time against memory", height, parts, points))


def _levels(sizes: Scale, times: Scale) -> Iterator[Markup]:
    for value in sizes.ticks():
        y = sizes(value)
        yield element("line", {
            "x1": times.start,
            "x2": times.end,
            "y1": y,
            "y2": y,
            "class": "grid"
        })
        yield text(format_bytes(value),
                   times.start - 6,
                   y + 4,
                   anchor="end",
                   kind="tick")


def _line(name: str, x1: float, x2: float, y1: float,
          y2: float) -> Iterator[Markup]:
    yield element("line", {
        "x1": x1,
        "x2": x2,
        "y1": y1,
        "y2": y2,
        "class": "limit"
    })
    yield text(name,
               x2 - 4 if x2 > x1 else x2 + 5,
               y2 - 5 if x2 > x1 else y2 + 8,
               anchor="end" if x2 > x1 else "start",
               kind="tick")


def _split(scored: Mapping[str, Any], times: Scale, sizes: Scale) -> Markup:
    """A small dot for a split of the devices that was only scored."""
    axes = " x ".join(f"{n}={size}" for n, size in scored["mesh"].items()
                      if size > 1)
    fits = "" if scored["fits"] else ", does not fit"
    return mark(
        "circle", {
            "cx": round(times(scored["least_step_s"]), 1),
            "cy": round(sizes(scored["memory_bytes"]), 1),
            "r": 3,
            "class": "scored"
        }, f"{axes}, not priced: at least "
        f"{format_time(scored['least_step_s'])}, "
        f"{format_bytes(scored['memory_bytes'])}{fits}", False)


def _point(candidate: Mapping[str, Any], times: Scale, sizes: Scale,
           number: int) -> Markup:
    """A dot; hollow if it does not fit, a diamond if it is chosen."""
    x, y = times(candidate["step_s"]), sizes(candidate["memory_bytes"])
    fits = "" if candidate["fits"] else ", does not fit"
    label = (f"{candidate['plan']}: {format_time(candidate['step_s'])}, "
             f"{format_bytes(candidate['memory_bytes'])}{fits}")
    if number == 0:
        path = f"M{x:.1f} {y - 9:.1f}l9 9l-9 9l-9 -9z"
        return mark("path", {
            "d": path,
            "class": "chosen"
        }, f"chosen: {label}", True)
    return mark(
        "circle", {
            "cx": round(x, 1),
            "cy": round(y, 1),
            "r": 5,
            "class": "fits" if candidate["fits"] else "over"
        }, label, False)
