"""What differs between two plans of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from planner.candidate import Candidate
from planner.explain.broken import broken_by, broken_text
from planner.explain.causes import delta, signed
from planner.explain.report import VERSION
from planner.ir.plan import Plan
from planner.moves import moves_between
from planner.planning import Planning
from planner.units import format_bytes, format_time

__all__ = ["compare_plans", "format_comparison"]

_NOTABLE_S = 1e-9
"""Differences that are told."""


def compare_plans(planning: Planning, first: tuple[Plan, Candidate],
                  second: tuple[Plan, Candidate]) -> dict[str, Any]:
    """The two prices, the difference by cause, and the lines that differ.

    Parameters
    ----------
    planning : Planning
    first, second : (Plan, Candidate)
        Each with its price.

    Returns
    -------
    dict
        As ``--compare --json`` prints it. ``moves`` is what would have to
        move to go on under the second plan, in bytes.
    """
    (plan_a, a), (plan_b, b) = first, second
    moves = moves_between(planning.program,
                          plan_a,
                          plan_b,
                          optimizer=planning.optimizer)
    return {
        "version":
        VERSION,
        "model":
        plan_a.model,
        "plans": [{
            "plan": c.name,
            "step_s": c.time_s,
            "memory_bytes": c.memory.total,
            "fits": planning.fits(c),
            "broken": broken_by(planning, c),
            "by_kind": c.memory.by_kind()
        } for c in (a, b)],
        "delta_s":
        delta(a, b),
        "moves": {
            "total_bytes": moves.total_bytes,
            "most_bytes": max(moves.received_bytes),
            "parameters": len(moves.parameters)
        },
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
    """Mesh, pipeline, recomputation and shares, each as a line."""
    pipeline = plan.pipeline.to_data() if plan.pipeline else {}
    found = {
        "mesh": str(plan.mesh),
        "layouts over": ", ".join(plan.layout_mesh.names),
        "recompute": ", ".join(plan.recompute),
        **{
            f"shares over {axis}": ":".join(map(str, shares))
            for axis, shares in plan.shares.items()
        },
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
    plans = comparison["plans"]
    lines = [comparison["model"]]
    for mark, plan in zip("-+", plans, strict=True):
        fits = "" if plan["fits"] else ", does not fit"
        lines.append(f"{mark} {plan['plan']}: "
                     f"{format_time(plan['step_s'])}, "
                     f"{format_bytes(plan['memory_bytes'])}{fits}")
        lines += [f"  {line}" for line in broken_text(plan)]
    lines += ["", *_costs(comparison)]
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


def _costs(comparison: dict[str, Any]) -> Iterator[str]:
    """What the second plan costs over the first, and the way there."""
    before, after = comparison["plans"]
    step_s = after["step_s"] - before["step_s"]
    if before["step_s"]:
        yield (f"a step takes {signed(step_s)} "
               f"({step_s / before['step_s']:+.1%}) with the second")
    for cause, seconds in comparison["delta_s"].items():
        if abs(seconds) >= _NOTABLE_S:
            yield f"  {cause} {signed(seconds)}"
    size = after["memory_bytes"] - before["memory_bytes"]
    yield f"a device holds {_signed_bytes(size)} with the second"
    for kind in dict.fromkeys((*before["by_kind"], *after["by_kind"])):
        part = after["by_kind"].get(kind, 0) - before["by_kind"].get(kind, 0)
        if part:
            yield f"  {kind} {_signed_bytes(part)}"
    moves = comparison["moves"]
    yield (f"going over moves {format_bytes(moves['total_bytes'])} of "
           f"{moves['parameters']} parameters and their optimizer state, at "
           f"most {format_bytes(moves['most_bytes'])} to a rank")


def _signed_bytes(size: int) -> str:
    return f"{'-' if size < 0 else '+'}{format_bytes(abs(size))}"
