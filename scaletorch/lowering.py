"""How the programs of a parallel module are lowered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh

from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import PipelineSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.pipeline.cuts import cuts_by_parameters
from planner.pipeline.fewer import with_fewer
from planner.pipeline.refine import has_cuts
from scaletorch.rewritten import refuse_in_stages
from scaletorch.runtime.compiled import Compiled, compiled
from scaletorch.runtime.pipeline.compiled import pipeline_program
from scaletorch.runtime.pipeline.program import PipelineProgram

__all__ = ["Lowered", "Lowering"]

Lowered = Compiled | PipelineProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """By one plan, on one mesh.

    Parameters
    ----------
    plan : Plan
    mesh : DeviceMesh
    compile : bool
        Run the blocks through ``torch.compile``.
    """

    plan: Plan
    mesh: DeviceMesh
    compile: bool

    def lowered(self,
                program: Program,
                layout: ProgramLayout,
                *,
                inputs: str = "global",
                outputs: str = "global",
                first: Lowered | None = None) -> Lowered:
        """This rank's program.

        Parameters
        ----------
        program : Program
        layout : ProgramLayout
        inputs, outputs : str
            As ``ParallelModule.forward`` takes them.
        first : Compiled or PipelineProgram, optional
            That of the example inputs, if this is another one.

        Raises
        ------
        ValueError
            For what stages of a pipeline can't do.
        """
        if self.plan.pipeline is None:
            return compiled(program,
                            layout,
                            self.mesh,
                            compile=self.compile,
                            inputs=inputs,
                            outputs=outputs)
        refuse_in_stages(program)
        if outputs == "sharded":
            raise ValueError(
                'outputs="sharded" is not for pipelines: ask for "global" or '
                '"loss"')
        return pipeline_program(program,
                                layout,
                                self._pipeline(program, layout, first),
                                self.mesh,
                                compile=self.compile,
                                local_inputs=inputs == "local")

    def _pipeline(self, program: Program, layout: ProgramLayout,
                  first: Lowered | None) -> PipelineSpec:
        """The plan's pipeline, for as many micro-batches as the layout has;
        in a program of other blocks (as under autocast) stages follow their
        parameters."""
        pipeline = self.plan.pipeline
        assert pipeline is not None
        pipeline = with_fewer(pipeline, self.plan.mesh.size(pipeline.axis),
                              layout.mesh.sizes[-1])
        if not isinstance(first, PipelineProgram) or has_cuts(
                program, pipeline.cuts):
            return pipeline
        return dataclasses.replace(pipeline,
                                   cuts=cuts_by_parameters(
                                       program, first.stage_params))
