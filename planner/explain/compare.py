"""What differs between two plans of one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.candidate import Candidate
from planner.explain.causes import delta, signed
from planner.explain.report import VERSION
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
        "settings":
        _different(_settings(plan_a), _settings(plan_b), missing="none"),
        "at_rest":
        _different(plan_a.at_rest, plan_b.at_rest),
        "blocks": {
            name: lines
            for name in dict.fromkeys((*plan_a.blocks, *plan_b.blocks))
            if (lines := _different(plan_a.blocks.get(name, {}),
                                    plan_b.blocks.get(name, {})))
        },
    }


def _settings(plan: Plan) -> dict[str, str]:
    """Mesh, pipeline and recomputation, each as a line."""
    pipeline = plan.pipeline.to_data() if plan.pipeline else {}
    found = {
        "mesh": str(plan.mesh),
        "layouts over": ", ".join(plan.layout_mesh.names),
        "recompute": ", ".join(plan.recompute),
        **{
            f"pipeline {key}": _line(value)
            for key, value in pipeline.items()
        }
    }
    return {key: text for key, text in found.items() if text}


def _line(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return " / ".join(str(value).strip().splitlines())


def _different(a: Mapping[str, str],
               b: Mapping[str, str],
               missing: str = "R") -> dict[str, list[str]]:
    """Line to its text in both; a layout that is not said is whole."""
    return {
        key: [a.get(key, missing), b.get(key, missing)]
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
            lines.append(f"  {cause} {signed(seconds)}")
    groups = {
        "settings": comparison["settings"],
        "at rest": comparison["at_rest"],
        **comparison["blocks"]
    }
    for name, different in groups.items():
        if different:
            lines += ["", name]
        for key, (before, after) in different.items():
            lines += [f"  {key}", f"    - {before}", f"    + {after}"]
    return "\n".join(lines) + "\n"
