"""Which constraints a given plan breaks, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.constraints import RECOMPUTE, Ban, Constraints, Item, Limit, Pin
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import value_kind
from planner.rules.ring import RING_LOWERINGS

__all__ = ["Broken", "broken_constraints"]

_NAMED = 3
"""Parameters that are told by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A constraint that a plan does not keep.

    Parameters
    ----------
    constraint : str
    how : str
        What the plan does instead, as a sentence without a full stop.
    """

    constraint: str
    how: str

    def __str__(self) -> str:
        return f"{self.constraint}: {self.how}"


def broken_constraints(constraints: Constraints, *, mesh: MeshSpec,
                       layout: ProgramLayout,
                       uses: Mapping[str, str]) -> list[Broken]:
    """What a plan does that it must not.

    Parameters
    ----------
    constraints : Constraints
    mesh : MeshSpec
        All axes of the plan.
    layout : ProgramLayout
        Over the axes that layouts lie over.
    uses : mapping of str to str
        By axis, the recipe that it follows.
    """
    found = []
    for item in constraints.restricting:
        how = "; ".join(_how(item, mesh, layout, uses))
        if how:
            found.append(Broken(constraint=str(item), how=how))
    return found


def _how(item: Item, mesh: MeshSpec, layout: ProgramLayout,
         uses: Mapping[str, str]) -> Iterator[str]:
    if isinstance(item, Limit):
        if item.axis in mesh.names and mesh.size(item.axis) > item.size:
            yield f"{item.axis} has {mesh.size(item.axis)} ranks"
    elif isinstance(item, Pin) or (isinstance(item, Ban) and item.placements):
        yield from _misplaced(item, layout)
    elif isinstance(item, Ban):
        yield from _forbidden(item.what, layout, uses)


def _forbidden(what: str, layout: ProgramLayout,
               uses: Mapping[str, str]) -> Iterator[str]:
    """A recipe, or recomputation, where it is used."""
    over = [axis for axis, name in uses.items() if name == what]
    if what == "ring" and not over:
        over = _rings(layout)
    if over:
        yield f"{what} is used over {' and '.join(over)}"
    if what == RECOMPUTE and layout.recompute:
        yield f"it recomputes {_few(sorted(layout.recompute))}"


def _rings(layout: ProgramLayout) -> list[str]:
    """Axes around which attention goes whatever they are called."""
    return [
        axis for number, axis in enumerate(layout.mesh.names)
        if any(call.options[number].lowering in RING_LOWERINGS
               for cls in layout.classes.values()
               for call in cls.calls.values())
    ]


def _misplaced(item: Pin | Ban, layout: ProgramLayout) -> Iterator[str]:
    """Parameters that do not lie as they must, by what they lie as."""
    alone = Constraints(item)
    found: dict[tuple[str, str], list[str]] = {}
    for value, placements in layout.at_rest.items():
        name = value.partition(":")[2]
        if value_kind(value) != "param":
            continue
        for axis, placement in zip(layout.mesh.names, placements, strict=True):
            if not alone.allows(axis, name, placement):
                found.setdefault((axis, str(placement)), []).append(name)
    for (axis, text), names in found.items():
        lie = "lies" if len(names) == 1 else "lie"
        yield f"{_few(names)} {lie} as {text} over {axis}"


def _few(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    more = [f"{rest} more"] if rest > 0 else []
    *first, last = [*names[:_NAMED], *more]
    return f"{', '.join(first)} and {last}" if first else last
