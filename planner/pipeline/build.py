"""From a recipe with a pipeline to a plan, and from a plan to its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.ir.errors import LayoutError
from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh
from planner.ir.program import Program
from planner.pipeline.cuts import equal_cuts
from planner.pipeline.devices import rank_devices, stage_devices
from planner.pipeline.early_values import Prelude, Rehearsal, early_values
from planner.pipeline.means import count_ahead
from planner.pipeline.microbatch import with_microbatches
from planner.pipeline.refine import refined
from planner.pipeline.stages import Stage, split_stages, stages_of_blocks
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["Pipelined", "PipelineLayout", "pipeline_layout", "pipelined"]


@dataclass(frozen=True, kw_only=True)
class PipelineLayout:
    """A program's layouts over a stage's mesh and the micro-batches.

    Parameters
    ----------
    program : Program
        With the counts of its losses split off.
    layout : ProgramLayout
    pipeline : PipelineSpec
        With its cuts.
    """

    program: Program
    layout: ProgramLayout
    pipeline: PipelineSpec


def pipeline_layout(
        planning: Planning,
        pipeline: PipelineSpec,
        policies: tuple[Policy, ...],
        mesh: MeshSpec,
        fixed_rest: Mapping[str, Layout] | None = None) -> PipelineLayout:
    """Lay a program out for a pipeline.

    Parameters
    ----------
    planning : Planning
        Of the program as captured, or with its counts split off.
    pipeline : PipelineSpec
        Without cuts, stages of about equal time on their devices are
        chosen.
    policies : tuple of Policy
        One for each axis of a stage.
    mesh : MeshSpec
        The whole mesh.
    fixed_rest : mapping of str to Layout, optional
        Layouts of parameters at rest that must be kept, over the axes of a
        stage.

    Raises
    ------
    LayoutError
        When the program can't be cut into micro-batches or stages.
    """
    program = count_ahead(planning.program)
    planning = planning.of_program(program)
    layout = with_microbatches(planning,
                               inner_mesh(mesh, pipeline.axis),
                               policies,
                               pipeline.microbatches,
                               fixed_rest,
                               exact=pipeline.is_exact,
                               cut=pipeline.microbatches > 1)
    if not pipeline.cuts:
        ranks = rank_devices(planning.cluster, pipeline, mesh)
        cuts = equal_cuts(planning.facts, layout,
                          stage_devices(pipeline, ranks))
        pipeline = dataclasses.replace(pipeline, cuts=cuts)
    return PipelineLayout(program=program, layout=layout, pipeline=pipeline)


@dataclass(frozen=True, kw_only=True)
class Pipelined:
    """A program cut into stages and a prelude.

    Parameters
    ----------
    program : Program
        The whole, in which nothing moves between micro-batches.
    layout : ProgramLayout
    prelude : Prelude
    stages : tuple of Stage
    rehearsal : Pipelined or None
        The stages of the prelude's rehearsal, each beside that of the same
        number.
    """

    program: Program
    layout: ProgramLayout
    prelude: Prelude
    stages: tuple[Stage, ...]
    rehearsal: Pipelined | None = None

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Which stage feeds which."""
        return tuple(
            sorted({(made, number)
                    for number, stage in enumerate(self.stages)
                    for made in stage.takes.values()}))


def pipelined(program: Program, layout: ProgramLayout,
              pipeline: PipelineSpec) -> Pipelined:
    """Cut a program as its plan says.

    Parameters
    ----------
    program : Program
        With the counts of its losses split off.
    layout : ProgramLayout
        Over a stage's axes and the micro-batches.
    pipeline : PipelineSpec

    Raises
    ------
    LayoutError
        When a cut is not one of the program's, or a value would go
        backwards or between micro-batches.
    """
    program, layout = refined(program, layout, pipeline.cuts)
    main, laid, prelude = early_values(program,
                                       layout,
                                       exact=pipeline.is_exact)
    stage_of = stages_of_blocks(main, pipeline.cuts)
    return Pipelined(program=main,
                     layout=laid,
                     prelude=prelude,
                     stages=split_stages(main, laid, stage_of),
                     rehearsal=_rehearsed(prelude.rehearsal, stage_of))


def _rehearsed(rehearsal: Rehearsal | None,
               stage_of: Mapping[str, int]) -> Pipelined | None:
    """A rehearsal, cut where the program is."""
    if rehearsal is None:
        return None
    main, laid, prelude = early_values(rehearsal.program, rehearsal.layout)
    if prelude.rehearsal is not None:
        name = prelude.rehearsal.program.outputs[0]
        raise LayoutError(
            f"{name} of the whole batch is needed by every micro-batch, and "
            "by a later value that is, so that one forward pass does not find "
            "both; run this model without a pipeline, or let each micro-batch "
            'stand for the batch: pipeline(batch_statistics="microbatch")')
    own = {b.name: stage_of[b.name.removesuffix(".part")] for b in main.blocks}
    return Pipelined(program=main,
                     layout=laid,
                     prelude=prelude,
                     stages=split_stages(main, laid, own))
