"""A picture of predicted against measured step times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from scripts.published.predict import Prediction

__all__ = ["picture"]

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
            "#bbbbbb", "#000000", "#994455", "#997700", "#004488", "#77aadd")
_SIZE = 460
_MARGIN = 60
_LEGEND = 390
_BAND = 0.15
_BAND_COLOUR = "#eeeeee"
_LINE_COLOUR = "#888888"


def picture(found: Sequence[Prediction]) -> str:
    """An SVG of all rows with a time, on logarithmic axes.

    The line is where both are equal, the band 15% to either side; rows
    whose source doubts them are left out.
    """
    shown = [
        p for p in found if p.predicted_s and p.measured_s and not p.doubted
    ]
    values = [v for p in shown for v in (p.predicted_s, p.measured_s) if v]
    low = math.floor(math.log10(min(values, default=1.0)))
    high = max(math.ceil(math.log10(max(values, default=10.0))), low + 1)

    def at(seconds: float) -> float:
        return (math.log10(seconds) - low) / (high - low) * _SIZE

    sources = sorted({p.source for p in shown})
    parts = [*_frame(low, high, at), *_legend(sources)]
    for p in shown:
        colour = _COLOURS[sources.index(p.source) % len(_COLOURS)]
        x, y = _MARGIN + at(p.measured_s or 1), _y(at(p.predicted_s or 1))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" '
                     f'fill="{colour}" fill-opacity="0.7"/>')
    width, height = _SIZE + _MARGIN + _LEGEND, _SIZE + 2 * _MARGIN
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="11">')
    return "\n".join([head, *parts, "</svg>", ""])


def _y(up: float) -> float:
    return _MARGIN + _SIZE - up


def _frame(low: int, high: int, at: Callable[[float], float]) -> list[str]:
    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_SIZE}" '
        f'height="{_SIZE}" fill="white" stroke="{_LINE_COLOUR}"/>',
        _band(at(10**low * (1 + _BAND)) - at(10**low))
    ]
    for power in range(low, high + 1):
        place, label = at(10**power), f"{10.0**power:g} s"
        parts += [
            _text(_MARGIN + place, _MARGIN + _SIZE + 18, label),
            _text(_MARGIN - 6, _y(place) + 4, label, anchor="end")
        ]
    middle = _MARGIN + _SIZE / 2
    return [
        *parts,
        _text(middle, _MARGIN + _SIZE + 40, "measured step time"),
        _text(middle, _MARGIN - 14,
              "predicted step time; the band is 15% to either side")
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>")


def _band(offset: float) -> str:
    left, right = _MARGIN, _MARGIN + _SIZE
    bottom, top = _MARGIN + _SIZE, _MARGIN
    corners = (f"{left},{bottom} {left},{bottom - offset:.1f} "
               f"{right - offset:.1f},{top} {right},{top} "
               f"{right},{top + offset:.1f} {left + offset:.1f},{bottom}")
    return (f'<polygon points="{corners}" fill="{_BAND_COLOUR}"/>'
            f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{top}" '
            f'stroke="{_LINE_COLOUR}"/>')


def _legend(sources: Sequence[str]) -> list[str]:
    x = _MARGIN + _SIZE + 16
    parts = []
    for number, source in enumerate(sources):
        y = _MARGIN + 10 + 18 * number
        colour = _COLOURS[number % len(_COLOURS)]
        parts += [
            f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>',
            _text(x + 10, y, source, anchor="start")
        ]
    return parts
