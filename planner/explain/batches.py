"""What the report says of the size of the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from planner.batches import Batched
from planner.explain.columns import clip, table
from planner.objective import step_work
from planner.units import format_bytes, format_number, format_time

__all__ = ["batches_report", "batches_text"]

_PLAN = 40


def batches_report(tried: Sequence[Batched],
                   chosen: Batched) -> dict[str, Any]:
    """Every size that was tried, and the one with most throughput."""
    return {
        "chosen": chosen.rows,
        "unit": step_work(chosen.planning.program).unit,
        "tried": [_row(t) for t in tried],
    }


def _row(tried: Batched) -> dict[str, Any]:
    best = tried.found[0] if tried.found else None
    return {
        "rows": tried.rows,
        "reason": tried.reason,
        "fits": tried.fits,
        "plan": best and best.name,
        "step_s": best and best.time_s,
        "memory_bytes": best and best.memory.total,
        "rate": best and tried.rate,
    }


def batches_text(report: dict[str, Any]) -> Iterator[str]:
    """The lines of the text report."""
    batches = report["batches"]
    if batches is None:
        return
    yield (f"global batch: {batches['chosen']} gives most "
           f"{batches['unit']} per second and device")
    rows = [("", "batch", "step", f"{batches['unit']}/s/device", "of the best",
             "memory", "verdict", "plan")]
    known = [r for r in batches["tried"] if r["plan"] is not None]
    best = next(r["rate"] for r in known if r["rows"] == batches["chosen"])
    limit = report["memory"]["limit_bytes"]
    for row in known:
        over = row["memory_bytes"] - limit
        rows.append(
            ("*" if row["rows"] == batches["chosen"] else "", str(row["rows"]),
             format_time(row["step_s"]), format_number(row["rate"]),
             f"{row['rate'] / best:.1%}", format_bytes(row["memory_bytes"]),
             "fits" if row["fits"] else f"{format_bytes(over)} too much",
             row["plan"]))
    narrow = [(*cells[:-1], clip(cells[-1], _PLAN)) for cells in rows]
    yield from table(narrow, right=(1, 2, 3, 4, 5))
    for row in batches["tried"]:
        if row["plan"] is None:
            yield f"  {row['rows']}: {row['reason']}"
