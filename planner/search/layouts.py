"""Layouts of a program on a mesh: exact per axis, improved in rounds.

One axis at a time is solved exactly with the others held fixed, starting
from everything replicated, model axes before data axes, until a round
changes nothing. On one axis the result is optimal for its cost model; on
several the value is compared with a bound from relaxed single-axis
problems, and the gap is reported as it is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from planner.cluster.axis import axis_link
from planner.cluster.spec import ClusterSpec
from planner.cost.conversion import ConversionCost
from planner.ir.layout import Layout, Placement, R
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program, value_kind
from planner.ir.values import Value, call_of, calls_of, outputs_of
from planner.rules import options
from planner.rules.registry import TensorSpec
from planner.search.policy import Policy
from planner.search.problem import AxisProblem, Facts
from planner.search.solve import solve

__all__ = ["LayoutSolution", "replicated_layout", "search_layouts"]

_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSolution:
    """Layouts and what is known of their quality.

    Parameters
    ----------
    layout : ProgramLayout
    value_s : float
        Price of one step, compute and communication one after the other.
    bound_s : float
        No layouts on this mesh are cheaper than this.
    rounds : int
    seconds : float
    """

    layout: ProgramLayout
    value_s: float
    bound_s: float
    rounds: int
    seconds: float

    @property
    def gap(self) -> float:
        return (self.value_s - self.bound_s) / max(self.value_s, 1e-30)


def replicated_layout(program: Program, mesh: MeshSpec) -> ProgramLayout:
    """Every rank holds and computes everything."""
    whole = (R, ) * len(mesh.sizes)
    classes = {}
    for name, cls in program.classes.items():
        calls, hubs = {}, {}
        for node in cls.placeholders:
            hubs[Value(node).label] = whole
        for node in calls_of(cls.graph):
            first = options(call_of(node), 1)[0]
            calls[node.meta["label"]] = CallLayout(options=(first, ) *
                                                   len(mesh.sizes))
            for value in outputs_of(node):
                hubs[value.label] = whole
        classes[name] = ClassLayout(calls=calls, hubs=hubs)
    return ProgramLayout(mesh=mesh,
                         classes=classes,
                         at_rest={n: whole
                                  for n in program.specs})


def search_layouts(
    program: Program,
    mesh: MeshSpec,
    cluster: ClusterSpec,
    *,
    policies: Sequence[Policy],
    facts: Facts | None = None,
    rest_price_s_per_byte: float = 0.0,
    fixed_rest: Mapping[str, Layout] | None = None,
    constraint: Callable[[int, str, TensorSpec, Placement], bool]
    | None = None
) -> LayoutSolution:
    """Choose the layouts of a program.

    Parameters
    ----------
    program : Program
    mesh : MeshSpec
    cluster : ClusterSpec
    policies : sequence of Policy
        One per axis.
    facts : Facts, optional
        Of the program, when they are at hand.
    rest_price_s_per_byte : float
        Price of a parameter byte at rest.
    fixed_rest : mapping of str to Layout, optional
        Layouts at rest that must be kept, by global name.
    constraint : callable, optional
        (axis, parameter, spec, placement) to whether it may lie so.

    Raises
    ------
    InfeasiblePlan
        When some call has no legal option.
    """
    start = time.perf_counter()
    facts = facts or Facts.of(program)
    shape = mesh.sizes
    cost = ConversionCost(
        [axis_link(cluster, shape, a) for a in range(len(shape))],
        cluster.device)
    layout = replicated_layout(program, mesh)
    if fixed_rest:
        layout = dataclasses.replace(layout,
                                     at_rest={
                                         n: fixed_rest.get(n, lay)
                                         for n, lay in layout.at_rest.items()
                                     })
    value, bound, rounds = float("inf"), 0.0, 0
    order = _solving_order(policies)
    regather = tuple(a for a, p in enumerate(policies) if p.regather)
    while rounds < _ROUNDS:
        before = value
        for axis in order:
            problem = AxisProblem(facts=facts,
                                  layout=layout,
                                  axis=axis,
                                  policy=policies[axis],
                                  cost=cost,
                                  device=cluster.device,
                                  rest_price_s_per_byte=rest_price_s_per_byte,
                                  fixed_rest={
                                      n: lay[axis]
                                      for n, lay in (fixed_rest or {}).items()
                                  },
                                  regather_axes=regather,
                constraint=None if constraint is None else
                                  _for_axis(constraint, axis))
            solution = solve(problem.build())
            layout = problem.apply(solution.assignment)
            value, bound = solution.value, solution.bound
        rounds += 1
        if len(order) == 1 or not value < before - 1e-12:
            break
    layout = dataclasses.replace(layout,
                                 regather=_regathered(program, layout,
                                                      policies))
    if len(order) > 1:
        bound = 0.0
    return LayoutSolution(layout=layout,
                          value_s=value,
                          bound_s=bound,
                          rounds=rounds,
                          seconds=time.perf_counter() - start)


def _for_axis(constraint: Callable[[int, str, TensorSpec, Placement], bool],
              axis: int) -> Callable[[str, TensorSpec, Placement], bool]:
    return lambda name, spec, placement: constraint(axis, name, spec, placement
                                                    )


def _solving_order(policies: Sequence[Policy]) -> list[int]:
    """Axes that decide how parameters are used come before those that
    only decide how they rest."""
    return sorted(range(len(policies)),
                  key=lambda a: (not policies[a].use_shards, a))


def _regathered(program: Program, layout: ProgramLayout,
                policies: Sequence[Policy]) -> frozenset[str]:
    """Parameters gathered again for the backward pass."""
    axes = [a for a, p in enumerate(policies) if p.regather]
    return frozenset(n for n, lay in layout.at_rest.items()
                     if value_kind(n) == "param" and any(lay[a].is_shard
                                                         for a in axes))
