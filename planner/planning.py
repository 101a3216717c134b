"""From a captured program to a plan: by search or by a recipe."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.cluster import axis_link
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.cost.conversion import ConversionCost
from planner.cost.memory_estimate import MemoryEstimate, estimate_memory
from planner.cost.price import PlanPrice, price
from planner.ir.errors import InfeasiblePlan
from planner.ir.layout import Layout, Placement
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.recipes import RECIPES, Recipe, policies_for
from planner.rules.registry import TensorSpec
from planner.search.layouts import LayoutSolution, search_layouts
from planner.search.policy import Policy
from planner.search.problem import Facts

__all__ = ["Candidate", "Planning", "factorisations"]

_AXIS_RECIPES: Mapping[str, tuple[str, ...]] = {
    "dp": ("ddp", "zero1", "fsdp"),
    "tp": ("megatron", "megatron-sp"),
    "cp": ("ulysses", "gather_kv"),
}
_REST_PRICES = (1e-13, 1e-12, 1e-11, 1e-10, 1e-9)
"""Seconds per byte at rest, tried in order until the memory limit holds."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a program, priced."""

    policies: tuple[Policy, ...]
    solution: LayoutSolution
    price: PlanPrice
    memory: MemoryEstimate

    @property
    def layout(self) -> ProgramLayout:
        return self.solution.layout

    @property
    def mesh(self) -> MeshSpec:
        return self.solution.layout.mesh

    @property
    def axes(self) -> dict[str, str]:
        """What each axis is used for."""
        return {n: p.name for n, p in zip(self.mesh.names, self.policies,
                                          strict=True)}

    @property
    def name(self) -> str:
        return " * ".join(f"{policy.name}({size})" for policy, size in zip(
            self.policies, self.mesh.sizes, strict=True))


class Planning:
    """Plans one program on one cluster.

    Parameters
    ----------
    program : Program
    cluster : ClusterSpec
    constraints : Constraints, optional
    optimizer : str
        Whose state is budgeted.
    memory_limit_bytes : int, optional
        Per rank; the device's memory if left out.

    Raises
    ------
    ValueError
        When a pinned pattern matches no parameter.
    """

    def __init__(self, program: Program, cluster: ClusterSpec, *,
                 constraints: Constraints | None = None,
                 optimizer: str = "adamw",
                 memory_limit_bytes: int | None = None) -> None:
        self.program = program
        self.cluster = cluster
        self.constraints = constraints or Constraints()
        self.optimizer = optimizer
        self.memory_limit_bytes = (memory_limit_bytes if memory_limit_bytes
                                   else int(cluster.device.memory_bytes))
        self.facts = Facts.of(program)
        params = [n.partition(":")[2] for n in program.params]
        for pattern in self.constraints.unmatched(params):
            raise ValueError(f"pin({pattern!r}) matches no parameter of "
                             f"{program.model_name}; its parameters are "
                             f"{', '.join(params[:5])}, ...")

    def candidate(self, mesh: MeshSpec, policies: Sequence[Policy], *,
                  rest_price_s_per_byte: float = 0.0,
                  fixed_rest: Mapping[str, Layout] | None = None
                  ) -> Candidate:
        """Layouts under given policies, priced without their penalties."""

        def allowed(axis: int, name: str, spec: TensorSpec,
                    placement: Placement) -> bool:
            del spec
            return self.constraints.allows(
                mesh.names[axis], name.partition(":")[2], placement)

        solution = search_layouts(
            self.program, mesh, self.cluster, policies=policies,
            facts=self.facts, rest_price_s_per_byte=rest_price_s_per_byte,
            fixed_rest=fixed_rest, constraint=allowed)
        cost = ConversionCost(
            [axis_link(self.cluster, mesh.sizes, a)
             for a in range(len(mesh.sizes))], self.cluster.device)
        return Candidate(
            policies=tuple(policies), solution=solution,
            price=price(self.program, solution.layout, cost,
                        self.cluster.device),
            memory=estimate_memory(self.program, solution.layout,
                                   optimizer=self.optimizer))

    def from_recipe(self, chosen: Recipe, mesh: MeshSpec) -> Candidate:
        """The plan of a recipe, on the axes it is meant for."""
        return self.candidate(mesh, policies_for(chosen, mesh))

    def candidates(self, meshes: Sequence[MeshSpec]) -> list[Candidate]:
        """All candidates over some meshes, best first."""
        found = []
        for mesh in meshes:
            if self.constraints.allows_mesh(mesh):
                found += [self.candidate(mesh, p)
                          for p in self._policy_choices(mesh)]
        return sorted(found, key=lambda c: (
            self._excess(c), c.price.time_s, c.memory.total, c.name))

    def _excess(self, candidate: Candidate) -> int:
        return max(0, candidate.memory.total - self.memory_limit_bytes)

    def fits(self, candidate: Candidate) -> bool:
        """Whether the candidate keeps the memory limit."""
        return self._excess(candidate) == 0

    def best(self, meshes: Sequence[MeshSpec]
             ) -> tuple[Candidate, list[Candidate]]:
        """The best candidate that fits, and all that were considered.

        Raises
        ------
        InfeasiblePlan
            When none fits, with the nearest one and what to try.
        """
        found = self.candidates(meshes)
        if not found:
            raise InfeasiblePlan(
                "the constraints exclude every plan: "
                f"{', '.join(map(str, self.constraints.items))}; drop one")
        if not self.fits(found[0]):
            found = sorted(found + self._squeezed(found),
                           key=lambda c: (self._excess(c), c.price.time_s))
        best = found[0]
        if not self.fits(best):
            raise InfeasiblePlan(self._why_not(best))
        return best, found

    def _squeezed(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Free axes under memory pressure."""
        meshes = {c.mesh: None for c in found}
        again = []
        for mesh in meshes:
            policies = [dataclasses.replace(p, regather=True)
                        for p in self._free(mesh)]
            for pressure in _REST_PRICES:
                candidate = self.candidate(
                    mesh, policies, rest_price_s_per_byte=pressure)
                again.append(candidate)
                if self.fits(candidate):
                    break
        return again

    def _why_not(self, nearest: Candidate) -> str:
        parts = ", ".join(f"{kind} {size / 2**30:.2f} GiB" for kind, size in
                          nearest.memory.by_kind().items() if size)
        return (
            f"no plan of {self.program.model_name} fits "
            f"{self.memory_limit_bytes / 2**30:.2f} GiB per device: the "
            f"smallest, {nearest.name}, takes "
            f"{nearest.memory.total / 2**30:.2f} GiB ({parts}); use more "
            "devices, a smaller batch, or a higher memory_limit_bytes")

    def _free(self, mesh: MeshSpec) -> list[Policy]:
        return [dataclasses.replace(Policy(), input_dim=0, rest="any",
                                    use_shards=False, name="auto-dp",
                                    index_moves=True)
                if n == "dp" else Policy() for n in mesh.names]

    def _policy_choices(self, mesh: MeshSpec) -> Iterator[tuple[Policy, ...]]:
        """Per axis the recipes that suit its name, and the free policy."""
        choices = []
        for name in mesh.names:
            names = _AXIS_RECIPES.get(name)
            if names is None:
                names = tuple(n for group in _AXIS_RECIPES.values()
                              for n in group)
            own = [p for p in _policies(names)
                   if self.constraints.allows_recipe(p.name)]
            if name != "dp":
                own.append(Policy())
            choices.append(own)
        yield from itertools.product(*choices)

    def plan_of(self, candidate: Candidate) -> Plan:
        """The candidate as a plan with its prediction."""
        prediction = {
            "step_time_s": candidate.price.time_s,
            "compute_s": candidate.price.compute_s,
            "communication_s": candidate.price.communication_s,
            "memory_bytes": float(candidate.memory.total),
            "bound_s": candidate.solution.bound_s,
        }
        return Plan.of(self.program, candidate.layout, candidate.axes,
                       prediction)


def _policies(names: Sequence[str]) -> list[Policy]:
    built = []
    for name in names:
        if name == "megatron-sp":
            recipe = RECIPES["megatron"](sequence_parallel=True)
        else:
            recipe = RECIPES[name]()
        built.append(recipe.parts[0][1])
    return built


def factorisations(world_size: int, *,
                   max_axes: int = 2) -> list[MeshSpec]:
    """Meshes for a number of devices: data by model axes.

    Every split of the devices into a ``dp`` axis and a ``tp`` axis (either
    may be left out), and, for ``max_axes`` of 3, a ``cp`` axis between.
    """
    meshes = []
    for dp in _divisors(world_size):
        rest = world_size // dp
        splits = [(rest, 1)] if max_axes < 3 else [
            (t, rest // t) for t in _divisors(rest)]
        for tp, cp in splits:
            sizes = {"dp": dp, "cp": cp, "tp": tp}
            kept = {n: s for n, s in sizes.items() if s > 1}
            meshes.append(MeshSpec(tuple(kept) or ("dp", ),
                                   tuple(kept.values()) or (1, )))
    return meshes


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
