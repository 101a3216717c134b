"""Which plan runs: the user's, a recipe's, or the search's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.ir.errors import LayoutError
from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import inner_mesh
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.ir.values import calls_of
from planner.ir.verify_shares import verify_shares
from planner.pipeline.build import pipeline_layout
from planner.pipeline.fewer import possible_counts
from planner.pipeline.means import count_ahead
from planner.planning import Candidate, Planning, factorisations
from planner.recipes import Recipe
from planner.search.policy import Policy

__all__ = ["Chosen", "Replan", "choose", "fingerprint", "searched_meshes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A plan and how to plan alike for other inputs.

    `policies` are those of the mesh's axes; with a pipeline, of the axes
    of a stage.
    """

    plan: Plan
    policies: tuple[Policy, ...]

    def noting(self, **numbers: float) -> Chosen:
        """The same, with more numbers in the plan's prediction."""
        prediction = {**self.plan.prediction, **numbers}
        return dataclasses.replace(self,
                                   plan=dataclasses.replace(
                                       self.plan, prediction=prediction))

    def program(self, captured: Program) -> Program:
        """The form of a captured program that the plan is of."""
        return count_ahead(captured) if self.plan.pipeline else captured


def choose(planning: Planning,
           plan: Plan | Recipe | str | Path | None,
           mesh: MeshSpec,
           *,
           flat: bool,
           count: int = 1) -> list[Chosen]:
    """The plans to run, best first.

    Parameters
    ----------
    planning : Planning
    plan : Plan, Recipe, str, Path or None
        None: search.
    mesh : MeshSpec
    flat : bool
        Whether other meshes of as many ranks may be searched too.
    count : int
        How many finalists of the search are wanted; fewer may fit.

    Raises
    ------
    TypeError, ValueError
        When `plan` is no plan, or not of this mesh.
    InfeasiblePlan
        When nothing fits memory and constraints.
    """
    if isinstance(plan, (str, Path)):
        plan = Plan.load(plan)
    if isinstance(plan, Recipe):
        return [_chosen(planning, planning.from_recipe(plan, mesh))]
    if isinstance(plan, Plan):
        _check_ranks(plan, mesh, flat)
        names = (inner_mesh(plan.mesh, plan.pipeline.axis)
                 if plan.pipeline else plan.mesh).names
        return [Chosen(plan=plan, policies=tuple(Policy() for _ in names))]
    if plan is not None:
        raise TypeError("plan must be a Plan, a recipe or a path, got "
                        f"{type(plan).__name__}")
    fitting = _fitting(planning, searched_meshes(mesh, flat=flat))
    return [_chosen(planning, c) for c in fitting[:count]]


def _fitting(planning: Planning,
             meshes: Sequence[MeshSpec]) -> list[Candidate]:
    """All that fits, best first.

    A loop may add up numbers of all parameters, or look at logits while it
    trains, so where the split is open there are stages only where nothing
    else fits.
    """
    is_open = len(meshes) > 1
    found = planning.candidates(meshes, staged=False if is_open else None)
    if is_open and not any(map(planning.fits, found)):
        found += planning.candidates(meshes, staged=True)
        found.sort(key=planning.rank)
    planning.check_fits(found)
    return list(filter(planning.fits, found))


def searched_meshes(mesh: MeshSpec, *, flat: bool) -> list[MeshSpec]:
    """The mesh that was passed, or all of as many ranks where it is flat."""
    return factorisations(mesh.world_size) if flat else [mesh]


def _chosen(planning: Planning, candidate: Candidate) -> Chosen:
    return Chosen(plan=planning.plan_of(candidate),
                  policies=candidate.policies)


def _check_ranks(plan: Plan, mesh: MeshSpec, flat: bool) -> None:
    if math.prod(plan.mesh.sizes) != mesh.world_size:
        raise ValueError(
            f"the plan is for {plan.mesh} = {plan.mesh.world_size} ranks, "
            f"the mesh has {mesh.world_size}; plan again, or start as many "
            "ranks as the plan wants")
    if not flat and plan.mesh != mesh:
        raise ValueError(
            f"the plan is for the mesh {plan.mesh}, but {mesh} was passed; "
            f"pass a mesh of these axes, or just {mesh.world_size}")


class Replan:
    """Layouts for other input shapes or modes, with the state at rest kept.

    Parameters
    ----------
    planning : Planning
    program : Program
        Of the example inputs.
    chosen : Chosen
    """

    def __init__(self, planning: Planning, program: Program,
                 chosen: Chosen) -> None:
        self.planning = planning
        self.chosen = chosen
        program = chosen.program(program)
        self.structure = fingerprint(program, with_shapes=False)
        self.at_rest = chosen.plan.resolve(program).at_rest

    def __call__(self,
                 program: Program,
                 *,
                 keep_inputs: bool = False) -> ProgramLayout:
        """The layouts of another program of the same model.

        With `keep_inputs` the inputs keep their layouts too, as for
        batches that arrive sharded.
        """
        if fingerprint(program, with_shapes=False) == self.structure:
            try:
                layout = self.chosen.plan.resolve(program)
                verify_shares(program, layout)
                return layout
            except LayoutError:
                # A size that no longer divides: search again, for equal
                # shares, but not for what arrives in others.
                if keep_inputs and self.chosen.plan.shares:
                    raise
        if self.chosen.plan.pipeline is not None:
            return self._pipeline_layout(program, keep_inputs)
        again = Planning(program,
                         self.planning.cluster,
                         constraints=self.planning.constraints,
                         optimizer=self.planning.optimizer)
        candidate = again.candidate(self.chosen.plan.mesh,
                                    self.chosen.policies,
                                    fixed_rest=self._fixed(keep_inputs),
                                    recompute=self._recompute(program))
        return candidate.layout

    def _pipeline_layout(self, program: Program,
                         keep_inputs: bool) -> ProgramLayout:
        """Of a batch that does not divide, with fewer micro-batches."""
        plan = self.chosen.plan
        assert plan.pipeline is not None
        planning = self.planning.of_program(program)
        fixed = {n: lay[:-1] for n, lay in self._fixed(keep_inputs).items()}
        refused: LayoutError | None = None
        for count in possible_counts(planning.facts.batch_rows,
                                     plan.pipeline.microbatches):
            spec = dataclasses.replace(plan.pipeline, microbatches=count)
            try:
                return pipeline_layout(planning, spec, self.chosen.policies,
                                       plan.mesh, fixed).layout
            except LayoutError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def _recompute(self, program: Program) -> list[str]:
        """Of the chosen classes, those that this program has too."""
        return [n for n in self.chosen.plan.recompute if n in program.classes]

    def _fixed(self, keep_inputs: bool) -> Mapping[str, Layout]:
        kinds = ("param:", "input:") if keep_inputs else ("param:", )
        return {
            n: lay
            for n, lay in self.at_rest.items() if n.startswith(kinds)
        }


def fingerprint(program: Program, *, with_shapes: bool) -> str:
    """What tells one captured program from another."""
    lines = [
        f"{b.name} {b.block_class} {b.operands} {b.results}"
        for b in program.blocks
    ]
    for name, cls in program.classes.items():
        lines += [
            f"{name} {n.meta['label']} {n.target}" for n in calls_of(cls.graph)
        ]
    if with_shapes:
        lines += [f"{n} {spec}" for n, spec in program.specs.items()]
    return "\n".join(lines)
