"""Modules that run whole on every rank, and what that costs."""

from __future__ import annotations

from typing import Any

from planner.cost.flops import op_name
from planner.cost.plan_price import PlanPrice
from planner.ir.program import Program, source_of
from planner.ir.values import calls_of

__all__ = ["opaque_modules"]


def opaque_modules(program: Program, price: PlanPrice) -> list[dict[str, Any]]:
    """One row for each opaque call of a block class.

    `costs_s` is, by axis, what dividing it over that axis would save.
    """
    counts = [b.block_class for b in program.blocks]
    return [{
        "block": name,
        "count": counts.count(name),
        "module": source_of(node).module_path,
        "class": str(node.args[2]).partition(".")[0],
        "location": source_of(node).location,
        "flops": int(node.args[3]),
        **_costs(price, name, node.meta["label"])
    } for name, cls in program.classes.items() for node in calls_of(cls.graph)
            if op_name(node.target) == "opaque"]


def _costs(price: PlanPrice, block: str, call: str) -> dict[str, Any]:
    own = [p for p in price.repeated if (p.where, p.call) == (block, call)]
    return {
        "time_s": max((p.time_s for p in own), default=0.0),
        "costs_s": {
            p.axis: p.excess_s
            for p in own
        }
    }
