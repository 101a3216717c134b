"""A lower bound on the price of any layouts on a mesh.

The price is the compute plus, axis by axis, the conversions over it. Seen
from one axis, the best the others can do is to divide all work and all
values evenly; so the exact optimum of that relaxed problem bounds compute
and this axis' conversions together. Giving every axis a part of the
compute, the parts adding up to one, bounds the sum over all axes.
"""

from __future__ import annotations

import math

from planner.cluster.axis import step_link
from planner.cluster.spec import ClusterSpec
from planner.cost.conversion import ConversionCost
from planner.ir.mesh import MeshSpec
from planner.search.facts import Facts
from planner.search.layouts import replicated_layout
from planner.search.policy import Policy
from planner.search.problem import AxisProblem, draft_of
from planner.search.solve import solve
from planner.search.tables import ConversionTables

__all__ = ["lower_bound_s", "quick_bound_s"]

_MANY_CALLS = 1000
"""A relaxation of more takes seconds."""


def lower_bound_s(facts: Facts, mesh: MeshSpec, cluster: ClusterSpec) -> float:
    """No layouts of the program on `mesh` take less, in the cost model."""
    axes = range(len(mesh.sizes))
    share = 1.0 / len(mesh.sizes)
    return sum(_relaxed_s(facts, mesh, cluster, a, share) for a in axes)


def quick_bound_s(facts: Facts, mesh: MeshSpec, cluster: ClusterSpec) -> float:
    """The same, of large graphs only that work is divided evenly at best."""
    if sum(len(c.calls) for c in facts.classes.values()) <= _MANY_CALLS:
        return lower_bound_s(facts, mesh, cluster)
    return facts.computing_s(cluster.weakest(range(mesh.world_size)),
                             1.0 / mesh.world_size)


def _relaxed_s(facts: Facts, mesh: MeshSpec, cluster: ClusterSpec, axis: int,
               weight: float) -> float:
    """One axis' optimum when the others divide everything."""
    size = mesh.sizes[axis]
    others = mesh.world_size // size
    only = MeshSpec((mesh.names[axis], ), (size, ))
    device = cluster.weakest(range(mesh.world_size))
    cost = ConversionCost([step_link(cluster, mesh.sizes, axis)],
                          device,
                          divided=others)
    problem = AxisProblem(facts=facts,
                          layout=replicated_layout(facts, only),
                          axis=0,
                          policy=Policy(),
                          tables=ConversionTables(cost),
                          device=device,
                          compute_weight=weight,
                          work_share=1.0 / others)
    return solve(draft_of(problem).graph(), slack=math.inf).bound
