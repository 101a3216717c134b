"""What the report says of constraints that the plan breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from planner.broken import broken_constraints
from planner.candidate import Candidate
from planner.explain.columns import wrapped
from planner.planning import Planning

__all__ = ["broken_by", "broken_lines", "broken_text"]


def broken_by(planning: Planning, chosen: Candidate) -> list[dict[str, str]]:
    """The constraints that a plan breaks, which a plan that is given may."""
    found = broken_constraints(planning.constraints,
                               mesh=chosen.mesh,
                               layout=chosen.layout,
                               uses=chosen.axes)
    return [dataclasses.asdict(b) for b in found]


def broken_lines(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each."""
    return [f"{b['constraint']}: {b['how']}" for b in report["broken"]]


def broken_text(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the text report."""
    if report["broken"]:
        yield "the plan breaks constraints, and is priced as it is"
        for line in broken_lines(report):
            yield from wrapped(line, indent=2)
