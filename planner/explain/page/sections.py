"""The sections of the page, from the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.explain.batches import batches_text
from planner.explain.broken import broken_lines
from planner.explain.causes import why
from planner.explain.devices import devices_text
from planner.explain.fit import fit_text
from planner.explain.outlook import (held_back_by, sensitivity_text,
                                     what_fits_text)
from planner.explain.page.charts import BarRow, search_space, stacked_bars
from planner.explain.page.marks import axis_color, color_of
from planner.explain.page.markup import Markup, element, join
from planner.explain.page.tables import (Column, alternatives, collectives,
                                         sizes, table, times)
from planner.explain.text import constraints_text
from planner.units import format_bytes, format_number, format_time

__all__ = [
    "batches", "communication", "devices", "drawn", "key_figures", "limits",
    "memory", "notice", "others", "time"
]

Report = Mapping[str, Any]

_ALONE = ("Below, every collective with the time that one run of it takes by "
          "itself. In a step gradients and parameters are sent packed, as in "
          "the chart.")
_ROUNDING = 1e-6
_LARGEST = ("Bars are of kinds at their largest, which they are not at the "
            "same time: beside a bar is the most at once.")


def key_figures(report: Report) -> Markup:
    """What one wants to know first, in large type."""
    time_of, memory_of = report["time"], report["memory"]
    work = report["work"]
    step_s = max(time_of["step_s"], 1e-30)
    total, limit = memory_of["total_bytes"], memory_of["limit_bytes"]
    fits = "fits" if total <= limit else "does not fit"
    shown = [
        ("step", format_time(step_s),
         f"{format_time(time_of['optimizer_s'])} of it the optimizer's"),
        ("throughput", format_number(work["rate"]),
         f"{work['unit']}/s per device, {work['peak_share']:.1%} of peak"),
        ("memory", format_bytes(total), f"of {format_bytes(limit)}, {fits}"),
        ("communication", f"{time_of['exposed_s'] / step_s:.1%}",
         "of a step waits for it"),
        ("gap", f"{time_of['gap']:.1%}",
         f"to {format_time(time_of['bound_s'])}, the least without the "
         "optimizer" +
         ("" if time_of["bound_overlaps"] else " and with nothing hidden")),
        ("plans priced", f"{report['solution']['visited']:,}",
         f"in {format_time(report['solution']['seconds'])}"),
    ]
    return element("dl", {"class": "figures"}, [
        element(
            "div", None,
            join(element("dt", None, name), element("dd", None, value),
                 element("dd", {"class": "note"}, note)))
        for name, value, note in shown
    ])


def notice(report: Report) -> Markup:
    """Constraints that the plan breaks; nothing if it keeps all."""
    if not report["broken"]:
        return Markup("")
    return element(
        "div", {
            "class": "notice",
            "role": "note"
        },
        join(element("p", None, "This plan breaks constraints:"),
             _lines(broken_lines(report))))


def devices(report: Report) -> Markup:
    """The numbers of devices that were tried."""
    fit = report["fit"]
    rows = [r for r in fit["tried"] if r["plan"] is not None]
    columns = [
        *_tried("devices", rows, "devices", fit["unit"]),
        Column(name="against the fewest",
               texts=[
                   "the fewest" if r["devices"] == fit["devices"] else why({
                       **r, "memory_excess_bytes":
                       0
                   }) for r in rows
               ]),
    ]
    if fit["price_per_device_hour"] is not None:
        columns[4:4] = [
            Column(name=name,
                   texts=[format_number(r[key]) for r in rows],
                   numbers=[r[key] for r in rows])
            for name, key in (("price of a step", "price_per_step"),
                              (f"of 10^9 {fit['unit']}", "price_per_billion"))
        ]
    head = next(iter(fit_text(dict(report))))
    return join(element("p", None, head), table("numbers of devices", columns))


def batches(report: Report) -> Markup:
    """The sizes of the global batch that were tried."""
    tried = report["batches"]
    rows = [r for r in tried["tried"] if r["plan"] is not None]
    head = next(iter(batches_text(dict(report))))
    return join(
        element("p", None, head),
        table("sizes of the global batch",
              _tried("batch", rows, "rows", tried["unit"])))


def _tried(name: str, rows: Sequence[Report], key: str,
           unit: str) -> list[Column]:
    """What the best plan does for each of several numbers."""
    return [
        Column(name=name,
               texts=[str(r[key]) for r in rows],
               numbers=[r[key] for r in rows]),
        times("step", rows, "step_s"),
        Column(name=f"{unit}/s per device",
               texts=[format_number(r["rate"]) for r in rows],
               numbers=[r["rate"] for r in rows]),
        sizes("memory", rows, "memory_bytes"),
        Column(name="fits",
               texts=["yes" if r["fits"] else "no" for r in rows]),
        Column(name="plan", texts=[r["plan"] for r in rows]),
    ]


def time(report: Report) -> Markup:
    """Where a step's time goes."""
    spent = report["time"]
    parts = [(name, spent[key], color_of(name))
             for name, key in (("forward", "forward_s"), ("backward",
                                                          "backward_s"),
                               ("forward again",
                                "recompute_s"), ("local copies", "local_s"))]
    parts += [(f"communication {a['axis']}", a["exposed_s"], axis_color(n))
              for n, a in enumerate(report["axes"])]
    others = sum(spent[key]
                 for key in ("waiting_s", "straggling_s", "interference_s",
                             "host_s", "around_s"))
    parts += [("waiting", max(0.0, others), color_of("waiting")),
              ("optimizer", spent["optimizer_s"], color_of("optimizer"))]
    return stacked_bars("where the time goes",
                        [BarRow(name="a step", parts=parts)], format_time)


def drawn(report: Report, end_s: float) -> Markup:
    """Why the step that is drawn is no longer or shorter than it is."""
    step_s = report["time"]["step_s"]
    if abs(end_s - step_s) <= _ROUNDING * step_s:
        return Markup("")
    return element(
        "p", None,
        f"Drawn one after the other, and every message by itself, this is "
        f"{format_time(end_s)}; a step is {format_time(step_s)}, since "
        "messages are packed and overlap with computing.")


def memory(report: Report) -> Markup:
    """Memory by kind, and by rank where there are stages."""
    whole = report["memory"]
    kinds = list(whole["by_kind"])
    ranks = [("every rank", whole["total_bytes"], whole["by_kind"])]
    if report["pipeline"] is not None:
        axis = report["pipeline"]["axis"]
        ranks = [(f"{axis} rank {r['rank']}", r["memory_bytes"], r["by_kind"])
                 for r in report["pipeline"]["ranks"]]
    rows = [
        BarRow(name=name,
               parts=[(k, float(sizes.get(k, 0)), color_of(k)) for k in kinds],
               told=float(total)) for name, total, sizes in ranks
    ]
    chart = stacked_bars("memory by kind",
                         rows,
                         format_bytes,
                         base=2,
                         limit=("limit " + format_bytes(whole["limit_bytes"]),
                                float(whole["limit_bytes"])))
    note = ([element("p", None, _LARGEST)] if any(r.total > r.beside
                                                  for r in rows) else [])
    return join(chart, note, _lines(what_fits_text(dict(report))))


def communication(report: Report) -> Markup:
    """Its time by axis and by place, and every collective."""
    groups = [(b["class"], b["collectives"]) for b in report["blocks"]]
    groups.append(("between blocks", report["between_blocks"]))
    groups = [(name, rows) for name, rows in groups if rows]
    axes = report["axes"]
    by_axis = table("mesh axes, of one rank in a step", [
        Column(name="axis", texts=[a["axis"] for a in axes]),
        Column(name="size",
               texts=[str(a["size"]) for a in axes],
               numbers=[a["size"] for a in axes]),
        Column(name="use", texts=[a["use"] for a in axes]),
        Column(name="link", texts=[a["tier"] or "-" for a in axes]),
        Column(name="bytes",
               texts=[format_bytes(a["bytes"]) for a in axes],
               numbers=[a["bytes"] for a in axes]),
        Column(name="time",
               texts=[format_time(a["time_s"]) for a in axes],
               numbers=[a["time_s"] for a in axes]),
        Column(name="exposed",
               texts=[format_time(a["exposed_s"]) for a in axes],
               numbers=[a["exposed_s"] for a in axes]),
        Column(name="repeated work",
               texts=[format_time(a["repeated_s"]) for a in axes],
               numbers=[a["repeated_s"] for a in axes]),
    ])
    spent = report["communication"]
    if not spent:
        return join(by_axis, element("p", None, "Nothing is communicated."))
    names = [a["axis"] for a in axes]
    chart = stacked_bars("communication by place and axis", [
        BarRow(name=where, parts=_by_axis(spent, where, names))
        for where in dict.fromkeys(r["where"] for r in spent)
    ], format_time)
    return join(by_axis, chart, element("p", None, _ALONE),
                [collectives(*group) for group in groups])


def _by_axis(spent: Sequence[Mapping[str, Any]], where: str,
             axes: Sequence[str]) -> list[tuple[str, float, str]]:
    """Of all runs of a step in one place."""
    return [(f"over {axis}",
             sum(r["time_s"] for r in spent
                 if (r["where"], r["axis"]) == (where, axis)),
             axis_color(number)) for number, axis in enumerate(axes)]


def others(report: Report) -> Markup:
    """The search space, and the runners-up."""
    chart = search_space(report["candidates"], report["scored"],
                         report["memory"]["limit_bytes"],
                         report["time"]["bound_s"])
    if not report["alternatives"]:
        return chart
    return join(chart, alternatives(report))


def limits(report: Report) -> Markup:
    """What holds the plan back, and what would change it."""
    plain = dict(report)
    repeated = [
        f"{r['block']}: every rank of {r['axis']} repeats {r['call']}, which "
        f"costs {format_time(r['costs_s'])}" for r in report["repeated_work"]
    ]
    opaque = [
        f"{r['module'] or 'the model'} ({r['class']}) runs whole on every "
        f"rank, {format_time(r['time_s'])}" for r in report["opaque"]
    ]
    groups = [
        ("Held back by", [held_back_by(plain)]),
        ("Devices", list(devices_text(plain))),
        ("Constraints", list(constraints_text(plain))[1:]),
        ("What would change", list(sensitivity_text(plain))[1:]),
        ("Repeated work", repeated),
        ("Opaque modules", opaque),
        ("Not offered, since uneven", report["uneven"]),
        ("Not available", report["unavailable"]),
    ]
    return join([
        join(element("h3", None, name), _lines(lines))
        for name, lines in groups if lines
    ])


def _lines(lines: Sequence[str] | Iterator[str]) -> Markup:
    found = [element("li", None, line.strip()) for line in lines]
    return element("ul", None, found) if found else Markup("")
