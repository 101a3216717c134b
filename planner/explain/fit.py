"""What the report says of the number of devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from planner.candidate import Candidate
from planner.explain.causes import delta, why
from planner.explain.columns import table, wrapped
from planner.fit import Fit, Sized
from planner.objective import step_work
from planner.units import format_bytes, format_number, format_time

__all__ = ["fit_report", "fit_text"]

_HOUR_S = 3600.0
_PRICED = 1e9
"""Units of work that a price is told for."""


def fit_report(fit: Fit) -> dict[str, Any]:
    """The fewest devices, one step less and one step more.

    Parameters
    ----------
    fit : Fit
    """
    chosen = fit.smallest.found[0]
    cluster = fit.smallest.planning.cluster
    work = step_work(fit.smallest.planning.program)
    return {
        "devices": fit.smallest.devices,
        "devices_per_node": cluster.tiers[0].size,
        "unit": work.unit,
        "state_bytes": fit.state_bytes,
        "price_per_device_hour": cluster.price_per_device_hour,
        "tried": [_row(sized, chosen) for sized in fit.rows],
    }


def _row(sized: Sized, chosen: Candidate) -> dict[str, Any]:
    """One number of devices, and why it is slower or quicker."""
    row: dict[str, Any] = {
        "devices": sized.devices,
        "reason": sized.reason,
        "fits": sized.fits,
        "plan": None,
        "step_s": None,
        "memory_bytes": None,
        "by_kind": {},
        "rate": None,
        "price_per_step": None,
        "price_per_billion": None,
        "delta_s": {},
    }
    if not sized.found:
        return row
    best = sized.found[0]
    work = step_work(sized.planning.program)
    price = sized.planning.cluster.price_per_device_hour
    step_price = (None if price is None else price * sized.devices *
                  best.time_s / _HOUR_S)
    return {
        **row, "plan": best.name,
        "step_s": best.time_s,
        "memory_bytes": best.memory.total,
        "by_kind": best.memory.by_kind(),
        "rate": work.rate(best.time_s, sized.devices),
        "price_per_step": step_price,
        "price_per_billion": step_price and step_price * _PRICED / work.count,
        "delta_s": {} if best is chosen else delta(chosen, best)
    }


def fit_text(report: dict[str, Any]) -> Iterator[str]:
    """The lines of the text report."""
    fit = report["fit"]
    if fit is None:
        return
    limit = report["memory"]["limit_bytes"]
    yield (f"fewest devices that hold it: {_count(fit)} (state takes "
           f"{format_bytes(fit['state_bytes'])} in all, a device holds "
           f"{format_bytes(limit)})")
    yield from _table(fit, limit)
    for row in fit["tried"]:
        if row["plan"] is None:
            yield f"  {_devices(row['devices'])}: {row['reason']}"
        elif row["devices"] != fit["devices"]:
            causes = why({**row, "memory_excess_bytes": 0})
            yield from wrapped(
                f"{_devices(row['devices'])}: {row['plan']}; {causes}",
                indent=2)


def _table(fit: dict[str, Any], limit: int) -> Iterator[str]:
    price = fit["price_per_device_hour"]
    rows = [[
        "", "devices", "step", f"{fit['unit']}/s/device", "memory", "verdict"
    ]]
    if price is not None:
        rows[0] += ["price/step", f"price/10^9 {fit['unit']}"]
    for row in fit["tried"]:
        if row["plan"] is not None:
            rows.append(_cells(row, fit, limit))
    yield from table(rows, right=(1, 2, 3, 4, 6, 7))
    if price is not None:
        yield f"  at {format_number(price)} for an hour of a device"


def _cells(row: dict[str, Any], fit: dict[str, Any], limit: int) -> list[str]:
    over = row["memory_bytes"] - limit
    cells = [
        "*" if row["devices"] == fit["devices"] else "",
        str(row["devices"]),
        format_time(row["step_s"]),
        format_number(row["rate"]),
        format_bytes(row["memory_bytes"]),
        "fits" if row["fits"] else f"{format_bytes(over)} too much",
    ]
    if row["price_per_step"] is not None:
        cells += [
            format_number(row["price_per_step"]),
            format_number(row["price_per_billion"])
        ]
    return cells


def _count(fit: dict[str, Any]) -> str:
    devices, node = fit["devices"], fit["devices_per_node"]
    if devices <= node:
        return _devices(devices)
    return f"{devices} devices, {devices // node} nodes of {node}"


def _devices(count: int) -> str:
    return f"{count} device" + ("s" if count != 1 else "")
