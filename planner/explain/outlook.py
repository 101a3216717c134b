"""The parts of the text report that look beyond the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planner.explain.columns import wrapped
from planner.units import counted, format_bytes, format_time

__all__ = [
    "binding_text", "held_back_by", "sensitivity_text", "what_fits_text"
]

_HEADS = {
    "memory": "memory",
    "constraint": "a constraint",
    "step": "the step itself",
}


def held_back_by(report: dict[str, Any]) -> str:
    """What stands between the plan and a quicker one."""
    binding = report["binding"]
    return f"{_HEADS[binding['kind']]}: {binding['reason']}"


def binding_text(report: dict[str, Any]) -> Iterator[str]:
    """What stands between the plan and a quicker one, and the search."""
    searched = report["solution"]
    yield from wrapped(f"held back by {held_back_by(report)}")
    yield (f"search: {counted(searched['visited'], 'plan')} priced, "
           f"{counted(searched['pruned'], 'combination')} left out")
    basis = ("without the optimizer" if report["time"]["bound_overlaps"] else
             "with nothing hidden and no optimizer")
    yield (f"  {basis} {format_time(searched['value'])}; none takes less than "
           f"{format_time(searched['bound'])} (gap {searched['gap']:.1%})")
    if searched["bound_of"]:
        yield from wrapped(f"(of {searched['bound_of']})", indent=2)
    if searched["uncut"]:
        yield from wrapped("neither stages nor several micro-batches: "
                           f"{searched['uncut']}")


def what_fits_text(report: dict[str, Any]) -> Iterator[str]:
    """The nearest changes with which a plan fits."""
    memory = report["memory"]
    if memory["total_bytes"] <= memory["limit_bytes"]:
        return
    if not report["what_fits"]:
        yield "no single change that was tried makes it fit"
        return
    yield "what makes it fit"
    for line in report["what_fits"]:
        yield f"  {line}"


def sensitivity_text(report: dict[str, Any]) -> Iterator[str]:
    """One line for each change, and the plan that is best then."""
    if not report["sensitivity"]:
        return
    step_s = report["time"]["step_s"]
    yield "what would change (plans found, priced again)"
    for row in report["sensitivity"]:
        if row["reason"]:
            yield f"  {row['change']}: {row['reason']}"
            continue
        line = (f"  {row['change']}: {_difference(row['step_s'] - step_s)}, "
                f"{format_bytes(row['memory_bytes'])}")
        yield line if row["fits"] else f"{line}, does not fit"
        if row["best_plan"] not in (report["plan"], _best_now(report)):
            yield (f"    best then: {row['best_plan']}, "
                   f"{format_time(row['best_step_s'])}")


def _best_now(report: dict[str, Any]) -> str:
    """The best plan as things are; a given plan need not be it."""
    limit_bytes = report["memory"]["limit_bytes"]
    best = min(report["candidates"],
               key=lambda c:
               (max(0, c["memory_bytes"] - limit_bytes), c["step_s"]))
    return str(best["plan"])


def _difference(seconds: float) -> str:
    if abs(seconds) < 1e-12:
        return "as long"
    word = "longer" if seconds > 0 else "shorter"
    return f"{format_time(abs(seconds))} {word}"
