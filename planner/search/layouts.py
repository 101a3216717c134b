"""Layouts of a program on a mesh: exact per axis, improved in rounds.

One axis at a time is solved exactly with the others held fixed, starting
from everything replicated (or from given layouts), axes that decide how
parameters are used before those that only decide how they rest, until
nothing changes. On one axis the result is optimal for its cost model; on
several it is as good as its rounds, and ``planner.search.bound`` says how
far it can be from the best.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from planner.cluster.spec import DeviceKind
from planner.ir.layout import Layout, Placement, R
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import value_kind
from planner.rules.registry import TensorSpec
from planner.search.facts import Facts
from planner.search.placed import numbered
from planner.search.policy import Policy
from planner.search.pressure import MemoryPressure, local_bytes
from planner.search.problem import AxisProblem, solve_axis
from planner.search.tables import ConversionTables

__all__ = ["LayoutSolution", "Request", "replicated_layout", "search_layouts"]

_ROUNDS = 6
_TOLERANCE = 1e-12  # relative

Constraint = Callable[[int, str, TensorSpec, Placement], bool]
"""(axis, parameter, spec, placement) to whether it may rest so."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What layouts are wanted of one program on one mesh.

    Parameters
    ----------
    facts : Facts
    mesh : MeshSpec
    policies : sequence of Policy
        One per axis.
    tables : ConversionTables
        Of the mesh.
    device : DeviceKind
    start : ProgramLayout, optional
        Layouts to improve; everything replicated if left out.
    pressure : MemoryPressure, optional
        What memory costs.
    fixed_rest : mapping of str to Layout
        Layouts at rest that must be kept, by global name.
    constraint : callable, optional
    reverse : bool
        Whether the axes are solved in the other order, which may end in
        another optimum.
    axes : tuple of int, optional
        Those that are solved; over the others layouts stay as they start.
    until_s : float
        When to stop, by the monotonic clock.
    tolerance : float
        By what part of its compute the layouts over an axis may take longer
        than the best.
    """

    facts: Facts
    mesh: MeshSpec
    policies: Sequence[Policy]
    tables: ConversionTables
    device: DeviceKind
    start: ProgramLayout | None = None
    pressure: MemoryPressure | None = None
    fixed_rest: Mapping[str, Layout] = field(default_factory=dict)
    constraint: Constraint | None = None
    reverse: bool = False
    axes: tuple[int, ...] | None = None
    until_s: float = float("inf")
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSolution:
    """Layouts and what is known of their quality.

    Parameters
    ----------
    layout : ProgramLayout
    value_s : float
        Price of one step, compute and communication one after the other,
        with what policies and memory pressure add.
    solves : int
        Problems of one axis that were solved.
    seconds : float
    """

    layout: ProgramLayout
    value_s: float
    solves: int
    seconds: float

    def recomputing(self, classes: Collection[str]) -> Self:
        """With the blocks of some classes run again in the backward."""
        return dataclasses.replace(self,
                                   layout=dataclasses.replace(
                                       self.layout,
                                       recompute=frozenset(classes)))


def replicated_layout(facts: Facts, mesh: MeshSpec) -> ProgramLayout:
    """Every rank holds and computes everything."""
    whole = (R, ) * len(mesh.sizes)
    classes = {}
    for name, of in facts.classes.items():
        hubs = {v.label: whole for v in of.placeholders}
        calls = {}
        for label, call in of.calls.items():
            first = call.options(1).options[0]
            calls[label] = CallLayout(options=(first, ) * len(mesh.sizes))
            hubs.update({v.label: whole for v in call.outputs})
        classes[name] = ClassLayout(calls=calls, hubs=hubs)
    return ProgramLayout(mesh=mesh,
                         classes=classes,
                         at_rest={n: whole
                                  for n in facts.program.specs})


def search_layouts(request: Request) -> LayoutSolution:
    """Choose the layouts of a program.

    Raises
    ------
    InfeasiblePlan
        When constraints leave some parameter no layout.
    """
    start = time.perf_counter()
    layout, value_s, solves = _descend(request, _first(request))
    layout = request.facts.hoist.hoisted(layout)
    layout = dataclasses.replace(layout, regather=_regathered(request, layout))
    return LayoutSolution(layout=layout,
                          value_s=value_s,
                          solves=solves,
                          seconds=time.perf_counter() - start)


def _first(request: Request) -> ProgramLayout:
    layout = request.start or replicated_layout(request.facts, request.mesh)
    if not request.fixed_rest:
        return layout
    return dataclasses.replace(layout,
                               at_rest={
                                   n: request.fixed_rest.get(n, lay)
                                   for n, lay in layout.at_rest.items()
                               })


def _descend(request: Request,
             layout: ProgramLayout) -> tuple[ProgramLayout, float, int]:
    """Solve axis after axis until all have seen each other's best.

    No solve makes anything worse, so that all are taken; an axis is
    settled when it stays as it is or gains nothing on its last turn.
    """
    order = sorted(
        range(len(request.policies)) if request.axes is None else request.axes,
        key=lambda a: (not request.policies[a].use_shards, a),
        reverse=request.reverse)
    last_s = {a: float("inf") for a in order}
    value_s, solves, settled = float("inf"), 0, 0
    while settled < len(order) and solves < _ROUNDS * len(order):
        axis = order[solves % len(order)]
        found, solution = solve_axis(_problem(request, layout, axis))
        solves += 1
        value_s = solution.value
        gains = value_s < last_s[axis] * (1 - _TOLERANCE)
        settled = settled + 1 if found == layout or not gains else 1
        layout, last_s[axis] = found, value_s
    return layout, value_s, solves


def _problem(request: Request, layout: ProgramLayout,
             axis: int) -> AxisProblem:
    return AxisProblem(facts=request.facts,
                       layout=layout,
                       axis=axis,
                       policy=request.policies[axis],
                       tables=request.tables,
                       device=request.device,
                       pressure=request.pressure,
                       fixed_rest={
                           n: lay[axis]
                           for n, lay in request.fixed_rest.items()
                       },
                       regather_axes=_regather_axes(request.policies),
                       constraint=_over(request.constraint, axis),
                       until_s=request.until_s,
                       tolerance=request.tolerance)


def _over(constraint: Constraint | None,
          axis: int) -> Callable[[str, TensorSpec, Placement], bool] | None:
    if constraint is None:
        return None

    def allowed(name: str, spec: TensorSpec, placement: Placement) -> bool:
        return constraint(axis, name, spec, placement)

    return allowed


def _regather_axes(policies: Sequence[Policy]) -> tuple[int, ...]:
    return tuple(a for a, p in enumerate(policies) if p.regather)


def _regathered(request: Request, layout: ProgramLayout) -> frozenset[str]:
    """Parameters gathered again for the backward pass."""
    axes = _regather_axes(request.policies)
    if axes:
        return frozenset(n for n, lay in layout.at_rest.items()
                         if value_kind(n) == "param" and any(lay[a].is_shard
                                                             for a in axes))
    if request.pressure is None:
        return frozenset()
    return frozenset(name for name in _cheaper_again(request, layout))


def _cheaper_again(request: Request, layout: ProgramLayout) -> list[str]:
    """Parameters whose whole costs more to keep than to gather again."""
    assert request.pressure is not None
    found = []
    sizes = layout.mesh.sizes
    for block, node, name in request.facts.program.uses():
        if value_kind(name) != "param":
            continue
        spec, rest = request.facts.program.specs[name], layout.at_rest[name]
        use = layout.classes[block.block_class].hubs[node.meta["label"]]
        kept, rests = (float(
            local_bytes(spec, lay, 0, numbered(lay[:1]), sizes)[0])
                       for lay in (use, rest))
        again_s, _ = request.tables.cost.times_s(spec, rest, use)
        if kept > rests and again_s < kept * request.pressure.price_s_per_byte:
            found.append(name)
    return found
