"""What holds a plan back, and what is not available to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.candidate import Candidate
from planner.cost.flops import op_name
from planner.explain.causes import parts
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.rules.ring import ring_refusal
from planner.units import format_bytes, format_time

__all__ = ["binding_constraint", "ring_refusals"]

_ATTENTION = "scaled_dot_product_attention"


def binding_constraint(
        planning: Planning, chosen: Candidate, found: Sequence[Candidate],
        constraints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What stands between this plan and a quicker one.

    Parameters
    ----------
    planning : Planning
    chosen : Candidate
    found : sequence of Candidate
        What was considered.
    constraints : sequence of dict
        With `costs_s`, as the report has them.

    Returns
    -------
    dict
        `kind` is ``memory``, ``constraint`` or, where no quicker plan was
        left out, ``step`` for the longest part of the step; `costs_s` what
        it costs.
    """
    if not planning.fits(chosen):
        over = planning.excess_bytes(chosen)
        return _binding("memory", 0.0, f"{format_bytes(over)} too much")
    options = [_memory(planning, chosen, found), _named(constraints)]
    tightest = max(options, key=lambda o: o["costs_s"])
    if tightest["costs_s"] > 0:
        return tightest
    cause, spent_s = max(parts(chosen).items(), key=lambda kv: kv[1])
    return _binding("step", spent_s,
                    f"{cause}, {spent_s / chosen.time_s:.0%} of it")


def _binding(kind: str, costs_s: float, reason: str) -> dict[str, Any]:
    return {"kind": kind, "costs_s": costs_s, "reason": reason}


def _memory(planning: Planning, chosen: Candidate,
            found: Sequence[Candidate]) -> dict[str, Any]:
    """The quickest candidate that does not fit."""
    large = [c for c in found if not planning.fits(c)]
    if not large:
        return _binding("memory", 0.0, "")
    best = min(large, key=lambda c: (c.time_s, c.name))
    over = planning.excess_bytes(best)
    saves_s = max(0.0, chosen.time_s - best.time_s)
    return _binding(
        "memory", saves_s, f"{best.name} would save {format_time(saves_s)} "
        f"and takes {format_bytes(over)} too much")


def _named(constraints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not constraints:
        return _binding("constraint", 0.0, "")
    worst = max(constraints, key=lambda c: c["costs_s"])
    return _binding(
        "constraint", worst["costs_s"], f"{worst['constraint']} costs "
        f"{format_time(worst['costs_s'])}")


def ring_refusals(planning: Planning, mesh: MeshSpec) -> list[str]:
    """Why attention can't go around the axis ``cp`` of a mesh.

    Returns
    -------
    list of str
        One sentence for each block class and reason.
    """
    if "cp" not in mesh.names or mesh.size("cp") == 1:
        return []
    found: dict[str, None] = {}
    for name, facts in planning.facts.classes.items():
        for label, known in facts.calls.items():
            if op_name(known.call.target) != _ATTENTION:
                continue
            reason = ring_refusal(known.call)
            if reason is not None:
                found[f"ring attention over cp of {label} in {name}: "
                      f"{reason}"] = None
    return list(found)
