"""From a captured program to a plan: by search or by a recipe."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence

from planner.candidate import Candidate, Searched
from planner.choices import factorisations
from planner.cost.optimizer import optimizer_s
from planner.cost.price import price
from planner.garbage import few_collections
from planner.infeasible import why_not
from planner.ir.errors import InfeasiblePlan
from planner.ir.layout import Layout, Placement
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import on_axis
from planner.ir.plan import Plan
from planner.meshes import candidates_over
from planner.pipeline.candidate import pipeline_candidate, priced_pipeline
from planner.pipeline.means import count_ahead
from planner.plans import candidate_of, plan_of
from planner.problem import Problem
from planner.recipes import Recipe, policies_for
from planner.rules.registry import TensorSpec
from planner.search.layouts import LayoutSolution, Request, search_layouts
from planner.search.policy import Policy
from planner.search.pressure import MemoryPressure
from planner.shares import and_shared, shared_candidate

__all__ = ["Candidate", "Planning", "Searched", "factorisations"]


class Planning(Problem):
    """Plans one program on one cluster.

    Takes what a :class:`Problem` does.

    Attributes
    ----------
    searched : Searched
        What the last :meth:`candidates` went through.
    visited : int
        Candidates that were priced.
    """

    searched: Searched = Searched()
    visited: int = 0

    def search(self,
               mesh: MeshSpec,
               policies: Sequence[Policy],
               *,
               memory_price_s_per_byte: float = 0.0,
               fixed_rest: Mapping[str, Layout] | None = None,
               start: ProgramLayout | None = None,
               reverse: bool = False,
               axes: tuple[int, ...] | None = None,
               tolerance: float = 0.0,
               whole: MeshSpec | None = None) -> LayoutSolution:
        """Layouts under given policies; see :meth:`candidate`.

        The mesh may have an axis of micro-batches. With a tolerance they
        may take longer by that part of their compute, on each axis. With
        `whole` the axes lie in that mesh.
        """
        pressure = MemoryPressure(
            price_s_per_byte=memory_price_s_per_byte,
            optimizer=self.optimizer) if memory_price_s_per_byte else None

        def allowed(axis: int, name: str, spec: TensorSpec,
                    placement: Placement) -> bool:
            del spec
            return all(
                self.constraints.allows(mesh.names[axis],
                                        each.partition(":")[2], placement)
                for each in self.facts.alike_params[name])

        request = Request(
            facts=self.facts,
            mesh=mesh,
            policies=policies,
            tables=self.tables(mesh, whole),
            device=self._prices.device(mesh),
            start=start,
            reverse=reverse,
            axes=axes,
            pressure=pressure,
            fixed_rest=fixed_rest or {},
            until_s=self.until_s,
            tolerance=tolerance,
            constraint=allowed if self.constraints.items else None)
        try:
            return search_layouts(request)
        except InfeasiblePlan:
            self.check_alike(mesh)
            raise

    def candidate(
            self,
            mesh: MeshSpec,
            policies: Sequence[Policy],
            *,
            memory_price_s_per_byte: float = 0.0,
            fixed_rest: Mapping[str, Layout] | None = None,
            start: ProgramLayout | None = None,
            reverse: bool = False,
            recompute: Collection[str] = (),
    ) -> Candidate:
        """Layouts under given policies, priced without their penalties.

        Parameters
        ----------
        mesh : MeshSpec
        policies : sequence of Policy
            One per axis.
        memory_price_s_per_byte : float
            Seconds that a byte of memory is taken to cost.
        fixed_rest : mapping of str to Layout, optional
            Layouts at rest that must be kept, by global name.
        start : ProgramLayout, optional
            Layouts to improve.
        reverse : bool
            Whether axes are solved in the other order.
        recompute : collection of str
            Block classes that run again in the backward. The search does
            not know; the price and the memory do.
        """
        solution = self.search(mesh,
                               policies,
                               memory_price_s_per_byte=memory_price_s_per_byte,
                               fixed_rest=fixed_rest,
                               start=start,
                               reverse=reverse)
        return self.priced(policies, solution.recomputing(recompute),
                           memory_price_s_per_byte)

    def priced(self,
               policies: Sequence[Policy],
               solution: LayoutSolution,
               memory_price_s_per_byte: float = 0.0) -> Candidate:
        """Layouts with what they cost."""
        mesh = solution.layout.mesh
        if solution.layout.shares:
            return self.noted(
                shared_candidate(self, policies, solution,
                                 memory_price_s_per_byte))
        return self.noted(
            Candidate(memory_price_s_per_byte=memory_price_s_per_byte,
                      policies=tuple(policies),
                      solution=solution,
                      price=price(self.program,
                                  solution.layout,
                                  self.tables(mesh).cost,
                                  self._prices.device(mesh),
                                  calls=self.facts.known_calls),
                      memory=self.memory_of(solution.layout),
                      bound_s=self.bound_s(mesh)))

    def noted(self, candidate: Candidate) -> Candidate:
        """A candidate that was priced; the observer sees it.

        What the optimizer takes is added here, for all kinds alike.
        """
        self.visited += 1
        candidate = dataclasses.replace(
            candidate, optimizer_s=self._optimizer_s(candidate))
        if self.observer is not None:
            self.observer(candidate)
        return candidate

    def _optimizer_s(self, candidate: Candidate) -> float:
        """Of the rank that takes longest."""
        return max(
            optimizer_s(self.optimizer,
                        memory.trained,
                        device,
                        num_params=memory.num_trained,
                        state_bytes=memory.optimizer)
            for memory, device in zip(candidate.rank_memory,
                                      self.limits.devices(candidate)))

    def of_plan(self, plan: Plan) -> Candidate:
        """What a given plan costs, as it is.

        Raises
        ------
        LayoutError
            When the plan does not fit the program.
        """
        return candidate_of(self, plan)

    def from_recipe(self, chosen: Recipe, mesh: MeshSpec) -> Candidate:
        """The plan of a recipe, on the axes it is meant for."""
        self.check_mesh(mesh)
        if chosen.pipeline is not None:
            pipeline = on_axis(chosen.pipeline, mesh)
            policies = policies_for(
                dataclasses.replace(chosen, pipeline=pipeline), mesh)
            return pipeline_candidate(self, pipeline, policies, mesh)
        return self.candidate(mesh, policies_for(chosen, mesh))

    def candidates(self,
                   meshes: Sequence[MeshSpec],
                   *,
                   staged: bool | None = None) -> list[Candidate]:
        """All candidates over some meshes, best first.

        Where there are several, the split of the devices is open, and all
        others that the joint search knows are looked at too. What can't
        beat what was found, by a bound on it, is left out. Where nothing
        fits, every candidate is considered again with the repeated blocks
        recomputed. Where `staged` is given, an open split only has plans
        with stages (or several micro-batches), or only those without.
        """
        if self.time_limit_s is not None:
            self.until_s = time.monotonic() + self.time_limit_s
        with few_collections():
            found, self.searched = candidates_over(self,
                                                   meshes,
                                                   self.until_s,
                                                   staged=staged)
            found = and_shared(self, found)
        overlaps = any(c.overlaps for c in found)
        shared_s = [
            c.run_s if overlaps else c.bound_s for c in found if c.shared
        ]
        self.searched = dataclasses.replace(
            self.searched, bound_s=min([self.searched.bound_s, *shared_s]))
        return found

    def recomputed(self, candidate: Candidate,
                   classes: Sequence[str]) -> Candidate:
        """A candidate whose blocks of some classes run again."""
        solution = candidate.solution.recomputing(classes)
        if candidate.pipeline is None:
            return self.priced(candidate.policies, solution,
                               candidate.memory_price_s_per_byte)
        return priced_pipeline(self, count_ahead(self.program),
                               solution.layout, candidate.pipeline,
                               candidate.policies, candidate.mesh)

    def best(self,
             meshes: Sequence[MeshSpec]) -> tuple[Candidate, list[Candidate]]:
        """The best candidate that fits, and all that were considered.

        Raises
        ------
        InfeasiblePlan
            When none fits, with the nearest one and what to try.
        """
        found = self.candidates(meshes)
        self.check_fits(found)
        return found[0], found

    def check_fits(self, found: Sequence[Candidate]) -> None:
        """Refuse candidates, best first, of which none fits.

        Raises
        ------
        InfeasiblePlan
            With the nearest one and what to try.
        """
        if not found:
            raise InfeasiblePlan(
                "the constraints exclude every plan: "
                f"{', '.join(map(str, self.constraints.items))}; drop one")
        if not self.fits(found[0]):
            raise InfeasiblePlan(why_not(self, found[0]))

    def plan_of(self, candidate: Candidate) -> Plan:
        """The candidate as a plan with its prediction."""
        return plan_of(self.program, candidate)
