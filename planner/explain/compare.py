"""What differs between two plans of one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.candidate import Candidate
from planner.explain.report import VERSION, delta
from planner.ir.plan import Plan
from planner.units import format_bytes, format_time

__all__ = ["compare_plans", "format_comparison"]


def compare_plans(first: tuple[Plan, Candidate],
                  second: tuple[Plan, Candidate]) -> dict[str, Any]:
    """The two prices, the difference by cause, and the lines that differ."""
    (plan_a, a), (plan_b, b) = first, second
    return {
        "version":
        VERSION,
        "model":
        plan_a.model,
        "plans": [{
            "plan": c.name,
            "step_s": c.time_s,
            "memory_bytes": c.memory.total
        } for c in (a, b)],
        "delta_s":
        delta(a, b),
        "at_rest":
        _different(plan_a.at_rest, plan_b.at_rest),
        "blocks": {
            name: lines
            for name in plan_a.blocks
            if (lines := _different(plan_a.blocks[name], plan_b.blocks[name]))
        },
    }


def _different(a: Mapping[str, str], b: Mapping[str,
                                                str]) -> dict[str, list[str]]:
    """Line to its text in both; what a plan does not say is whole."""
    return {
        key: [a.get(key, "R"), b.get(key, "R")]
        for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)
    }


def format_comparison(comparison: dict[str, Any]) -> str:
    """Print what :func:`compare_plans` gives."""
    lines = [comparison["model"]]
    for mark, plan in zip("-+", comparison["plans"], strict=True):
        lines.append(f"{mark} {plan['plan']}: "
                     f"{format_time(plan['step_s'])}, "
                     f"{format_bytes(plan['memory_bytes'])}")
    for cause, seconds in comparison["delta_s"].items():
        if abs(seconds) >= 1e-9:
            sign = "+" if seconds > 0 else "-"
            lines.append(f"  {cause} {sign}{format_time(abs(seconds))}")
    groups = {"at rest": comparison["at_rest"], **comparison["blocks"]}
    for name, different in groups.items():
        if different:
            lines += ["", name]
        for key, (before, after) in different.items():
            lines += [f"  {key}", f"    - {before}", f"    + {after}"]
    return "\n".join(lines) + "\n"
