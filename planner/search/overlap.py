"""A bound on steps in which messages overlap, and layouts that are near it.

The search of layouts minimises the sum of compute and messages, plans are
chosen by the event model. This is the least of a sum that no step of that
model is below: what is computed, messages that are waited for where they
are sent, and of all others the interference with what is computed
meanwhile. What is left to do at the end of the backward, and gradients
behind which nothing is computed, are not both in it but the mean of bounds
with the one or the other. It is minimised over one or two axes at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from planner.cluster.axis import step_link
from planner.cluster.spec import ClusterSpec
from planner.ir.layout import Layout, R
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import value_kind
from planner.ir.values import Value
from planner.search.eliminate import eliminate_relaxed
from planner.search.facts import Facts
from planner.search.layouts import replicated_layout
from planner.search.overlap_draft import Ends, OverlapDraft
from planner.search.overlap_mesh import OverlapMesh
from planner.search.overlap_state import state_times

__all__ = ["Overlapped", "overlapped"]

_ENDS = (Ends(after=1.0, both=0.0,
              first=0.0), Ends(after=0.5, both=0.0, first=0.5))
"""Each mean gives a bound, and the greatest counts."""

_MOST_ENTRIES = 2**22
_MOST_AXES = 2
_MANY_CALLS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlapped:
    """What is known of steps on one mesh.

    Parameters
    ----------
    bound_s : float
        No step takes less, without the optimizer, whatever its memory, if
        it divides the batch over an axis ``dp``, where there is one, and
        uses parameters whole over that.
    layouts : tuple of ProgramLayout
        Those whose bound is least. Over ``dp`` all is whole but parameters
        at rest.
    """

    bound_s: float
    layouts: tuple[ProgramLayout, ...]


def overlapped(
        facts: Facts,
        mesh: MeshSpec,
        cluster: ClusterSpec,
        recompute: Collection[str] = (),
) -> Overlapped | None:
    """Bound the steps of a program on a mesh.

    Parameters
    ----------
    facts : Facts
    mesh : MeshSpec
    cluster : ClusterSpec
        Of devices of one kind.
    recompute : collection of str
        Block classes that run again in the backward.

    Returns
    -------
    Overlapped or None
        None where there is no axis but ``dp``, or too much to choose at
        once.
    """
    seen = OverlapMesh(mesh=mesh,
                       links=[
                           step_link(cluster, mesh.sizes, a)
                           for a in range(len(mesh.sizes))
                       ],
                       device=cluster.weakest(range(mesh.world_size)))
    calls = sum(len(c.calls) for c in facts.classes.values())
    if not 1 <= len(seen.sizes) <= _MOST_AXES or calls > _MANY_CALLS:
        return None
    state = state_times(facts, seen)
    bounds, layouts = [], dict[str, ProgramLayout]()
    for ends in _ENDS:
        draft = OverlapDraft(facts, seen, state, ends, recompute)
        found = eliminate_relaxed(draft.draft.graph(),
                                  max_table_entries=_MOST_ENTRIES)
        bounds.append(found.bound + draft.constant_s)
        if math.isfinite(found.value):
            layout = _read_back(draft, found.assignment)
            layouts.setdefault(str(layout), layout)
    return Overlapped(bound_s=max(bounds), layouts=tuple(layouts.values()))


def _read_back(draft: OverlapDraft, assignment: Mapping[str,
                                                        int]) -> ProgramLayout:
    facts, mesh = draft.facts, draft.mesh
    whole = replicated_layout(facts, mesh.mesh)

    def held(variable: str) -> Layout:
        numbers = draft.draft.placed[variable]
        return draft.layout_of(int(numbers[assignment[variable]]))

    classes = {
        name: _class_layout(draft, assignment, held, name, whole.classes[name])
        for name in facts.classes
    }
    rests: dict[str, Layout] = {}
    for name, spec in facts.program.specs.items():
        if f"rest {name}" in draft.draft.placed:
            rests[name] = mesh.joined(held(f"rest {name}"), R)
    for block, node, name in facts.program.uses():
        own = facts.rest_of.get(name, "")
        if value_kind(name) == "param" and own not in rests:
            value = Value(node)
            rests[own] = draft.rest_of(
                block.block_class, value,
                held(f"hub {block.block_class} {value.label}"))
    return ProgramLayout(mesh=mesh.mesh,
                         classes=classes,
                         at_rest={
                             name: rests.get(facts.rest_of[name], now)
                             for name, now in whole.at_rest.items()
                         })


def _class_layout(draft: OverlapDraft, assignment: Mapping[str, int],
                  held: Callable[[str], Layout], name: str,
                  whole: ClassLayout) -> ClassLayout:
    mesh, known = draft.mesh, draft.draft
    calls, hubs = dict[str, CallLayout](), dict[str, Layout]()
    for label, call in draft.facts.classes[name].calls.items():
        variable = f"call {name} {label}"
        options = list(known.calls[variable].legal[assignment[variable]])
        if mesh.data_axis >= 0:
            options.insert(mesh.data_axis,
                           whole.calls[label].options[mesh.data_axis])
        calls[label] = CallLayout(options=tuple(options))
        for number, value in enumerate(call.outputs):
            hubs[value.label] = calls[label].output(number)
    for label in whole.hubs:
        if f"hub {name} {label}" in known.placed:
            hubs[label] = mesh.joined(held(f"hub {name} {label}"), R)
    return ClassLayout(calls=calls, hubs=hubs)
