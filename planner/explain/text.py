"""The report as text, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from planner.explain.batches import batches_text
from planner.explain.broken import broken_text
from planner.explain.causes import why
from planner.explain.columns import clip, table, wrapped
from planner.explain.devices import devices_text
from planner.explain.fit import fit_text
from planner.explain.outlook import (binding_text, sensitivity_text,
                                     what_fits_text)
from planner.explain.pipeline import pipeline_text
from planner.explain.work import work_text
from planner.units import bar, format_bytes, format_number, format_time

__all__ = ["constraints_text", "format_report"]

_NOTABLE = 1e-5
"""The least part of a step that is shown where most have none."""
_ROUNDING = 1e-12
"""The part of a step below which a difference is that of sums."""
_ROWS = 12
"""Collectives of a block that are shown."""


def format_report(report: dict[str, Any]) -> str:
    """Print what :func:`planner.explain.report.build_report` gives."""
    sections = (_head, broken_text, fit_text, batches_text, _time,
                binding_text, _axes, _exposed, devices_text, _pipeline,
                _memory, what_fits_text, _blocks, _repeated, _opaque, _uneven,
                _unavailable, _alternatives, constraints_text,
                sensitivity_text)
    parts = ["\n".join(section(report)) for section in sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def _mesh(mesh: dict[str, int]) -> str:
    return " x ".join(f"{n}={s}" for n, s in mesh.items())


def _head(report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['model']} on {report['cluster']}, {_mesh(report['mesh'])}"
    yield f"plan: {report['plan']}"


def _time(report: dict[str, Any]) -> Iterator[str]:
    time = report["time"]
    yield from work_text(report)
    whole = max(time["step_s"], 1e-30)
    hidden_s = time["communication_s"] - time["exposed_s"]
    if hidden_s < _ROUNDING * whole:
        hidden_s = 0.0
    yield (f"step {format_time(whole)} ({format_time(hidden_s)} of "
           f"communication hidden; gap {time['gap']:.1%})")
    parts = [("forward", time["forward_s"]), ("backward", time["backward_s"])]
    if time["recompute_s"]:
        parts.append(("forward again", time["recompute_s"]))
    parts.append(("local copies", time["local_s"]))
    if report["pipeline"] is not None:
        parts.append(("waiting", time["waiting_s"]))
    parts += [(f"communication {a['axis']}", a["exposed_s"])
              for a in report["axes"]]
    parts += [(name, time[key])
              for name, key in (("waiting for the last rank", "straggling_s"),
                                ("slowed by messages", "interference_s"),
                                ("waiting for the host",
                                 "host_s"), ("around the blocks", "around_s"),
                                ("optimizer", "optimizer_s"))
              if time[key] > _NOTABLE * whole]
    yield from table(
        [(name, format_time(s), f"{s / whole:.1%}", bar(s / whole))
         for name, s in parts],
        right=(1, 2))


def _pipeline(report: dict[str, Any]) -> list[str]:
    return pipeline_text(report["pipeline"])


def _axes(report: dict[str, Any]) -> Iterator[str]:
    yield "mesh axes (a step, one rank)"
    rows = [("axis", "size", "use", "link", "bytes", "time", "exposed",
             "repeated work")]
    rows += [(a["axis"], str(a["size"]), a["use"], a["tier"],
              format_bytes(a["bytes"]), format_time(a["time_s"]),
              format_time(a["exposed_s"]), format_time(a["repeated_s"]))
             for a in report["axes"]]
    yield from table(rows, right=(1, 4, 5, 6, 7))


def _exposed(report: dict[str, Any]) -> Iterator[str]:
    """Which collectives a rank waits for."""
    if not report["exposed"]:
        return
    yield "communication that nothing hides (a step)"
    rows = [("where", "of", "collective", "axis", "pass", "runs", "time",
             "exposed")]
    rows += [(clip(e["where"], 20), clip(e["value"], 26), e["kind"], e["axis"],
              e["direction"], format_number(e["count"]),
              format_time(e["time_s"]), format_time(e["exposed_s"]))
             for e in report["exposed"][:_ROWS]]
    yield from table(rows, right=(5, 6, 7))
    if len(report["exposed"]) > _ROWS:
        rest_s = sum(e["exposed_s"] for e in report["exposed"][_ROWS:])
        yield (f"  and {len(report['exposed']) - _ROWS} more, "
               f"{format_time(rest_s)} together")


def _memory(report: dict[str, Any]) -> Iterator[str]:
    memory = report["memory"]
    total, limit = memory["total_bytes"], memory["limit_bytes"]
    verdict = "fits" if total <= limit else (
        f"{format_bytes(total - limit)} too much")
    where = "" if memory["where"] == "every rank" else f" on {memory['where']}"
    yield (f"memory {format_bytes(total)} of {format_bytes(limit)} per "
           f"device{where} ({verdict})")
    yield from table([(kind, format_bytes(size), bar(size / max(limit, 1)))
                      for kind, size in memory["by_kind"].items() if size],
                     right=(1, ))


def _blocks(report: dict[str, Any]) -> Iterator[str]:
    yield "layouts by block (over " + ", ".join(report["layouts_over"]) + ")"
    for block in report["blocks"]:
        again = ", recomputed in the backward" if block["recomputed"] else ""
        yield f"{block['class']} x {block['count']} ({block['first']}){again}"
        yield from _parameters(block["parameters"])
        yield from _collectives(block["collectives"])
    if report["between_blocks"]:
        yield "between blocks"
        yield from _collectives(report["between_blocks"])


def _parameters(parameters: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not parameters:
        return
    rows = [("parameter", "shape", "at rest", "in use", "")]
    rows += [(clip(p["name"],
                   40), "x".join(map(str, p["shape"])) or "-", p["at_rest"],
              p["in_use"], "gathered twice" if p["regathered"] else "")
             for p in parameters]
    yield from table(rows)


def _collectives(collectives: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not collectives:
        return
    rows = [("conversion of", "collective", "axis", "pass", "bytes", "alone")]
    rows += [(clip(c["value"], 40), c["kind"], c["axis"], c["direction"],
              format_bytes(c["bytes"]), format_time(c["time_s"]))
             for c in collectives[:_ROWS]]
    yield from table(rows, right=(4, 5))
    if len(collectives) > _ROWS:
        rest_s = sum(c["time_s"] for c in collectives[_ROWS:])
        yield (f"  and {len(collectives) - _ROWS} more, "
               f"{format_time(rest_s)} together")


def _repeated(report: dict[str, Any]) -> Iterator[str]:
    if report["repeated_work"]:
        yield "work that every rank of an axis repeats"
        yield from table([(clip(f"{r['block']}: {r['call']}", 60), r["axis"],
                           f"costs {format_time(r['costs_s'])}")
                          for r in report["repeated_work"]])


def _opaque(report: dict[str, Any]) -> Iterator[str]:
    """What can't be captured, and what dividing it would save."""
    if not report["opaque"]:
        return
    yield ("runs whole on every rank of every axis, since it can't be "
           "captured (opaque)")
    rows = [("module", "class", "blocks", "flops", "time", "costs")]
    for part in report["opaque"]:
        costs = ", ".join(f"{axis} {format_time(cost_s)}"
                          for axis, cost_s in part["costs_s"].items())
        name = part["module"] or "the model"
        rows.append(
            (clip(name,
                  40), clip(part["class"],
                            28), str(part["count"]), f"{part['flops']:.1e}",
             format_time(part["time_s"]), costs or "nothing"))
    yield from table(rows, right=(2, 3, 4))


def _uneven(report: dict[str, Any]) -> Iterator[str]:
    if report["uneven"]:
        yield "not offered, since uneven"
        yield from _sentences(report["uneven"])


def _unavailable(report: dict[str, Any]) -> Iterator[str]:
    if report["unavailable"]:
        yield "not available"
        yield from _sentences(report["unavailable"])


def _sentences(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield from wrapped(line, indent=2)


def _alternatives(report: dict[str, Any]) -> Iterator[str]:
    shown = report["alternatives"]
    if not shown:
        return
    yield (f"alternatives ({len(shown)} of "
           f"{report['considered'] - 1} that were considered)")
    for other in shown:
        yield from wrapped(
            f"{other['plan']}: {format_time(other['step_s'])}, "
            f"{format_bytes(other['memory_bytes'])}",
            indent=2)
        yield from wrapped(why(other), indent=4, hanging=0)


def constraints_text(report: dict[str, Any]) -> Iterator[str]:
    """What each constraint costs, a line each.

    Parameters
    ----------
    report : dict
        As :func:`planner.explain.report.build_report` gives it.
    """
    if report["constraints"]:
        yield "constraints"
        memory = report["memory"]
        fits = memory["total_bytes"] <= memory["limit_bytes"]
        for item in report["constraints"]:
            if item["fits_without"] and not fits:
                yield (f"  without {item['constraint']} a plan fits, in "
                       f"{format_time(item['step_s_without'])} a step")
            else:
                yield (f"  {item['constraint']} costs "
                       f"{format_time(item['costs_s'])} a step")
