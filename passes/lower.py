"""The pass manager: a program and its layouts become one rank's program.

Runs the passes in order, once per block class, and puts the blocks and
the conversions between them into one list of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from passes.collectives import AxisRef
from passes.hoist_parameters import hoist_parameters
from passes.kernels import KernelBuilder
from passes.shard_parameters import ParameterMove, parameter_move
from passes.steps import Kernel, RankProgram, RankStep
from passes.text import spec_text
from passes.verify import verify_program
from planner.ir.convert import conversion_steps
from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, R, format_layout
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Block, BlockClass, Program, value_kind
from planner.ir.shares import rank_shares
from planner.ir.values import value_of
from planner.ir.verify import hub_of, verify_layout
from planner.ir.verify_shares import verify_shares
from planner.rules.registry import TensorSpec

__all__ = ["Kernel", "RankProgram", "RankStep", "lower"]


def lower(program: Program,
          layout: ProgramLayout,
          rank: int,
          *,
          device: torch.device,
          local_inputs: bool = False,
          sharded_outputs: bool = False,
          differentiated: Sequence[int] | None = None,
          is_stage: bool = False,
          dump_dir: Path | None = None) -> RankProgram:
    """Lower a program for one rank.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    rank : int
        Position in the mesh, row-major.
    device : torch.device
        Whose kernels are recorded.
    local_inputs : bool
        Whether inputs arrive as shards in their layout at rest, instead of
        whole on every rank.
    sharded_outputs : bool
        Whether outputs beside the loss are returned in the layout they are
        computed in, instead of whole on every rank.
    differentiated : sequence of int, optional
        Outputs that may take a gradient; left out: the loss, or all where
        there is none.
    is_stage : bool
        Whether this is a stage of a pipeline: its outputs leave as they
        are held.
    dump_dir : Path, optional
        Folder to which every pass writes its printed graphs.

    Raises
    ------
    LayoutError
        When the layouts do not fit the program.
    """
    verify_layout(program, layout)
    verify_shares(program, layout)
    layout = hoist_parameters(program, layout)
    builder = KernelBuilder(mesh=layout.mesh,
                            axes=_axes(layout, rank),
                            device=device,
                            dump_dir=dump_dir,
                            recompute=layout.recompute)
    tangents = (_output_tangents(program)
                if differentiated is None else tuple(differentiated))
    lowered = _Lowering(program, layout, builder,
                        tangents).run(local_inputs=local_inputs,
                                      sharded_outputs=sharded_outputs,
                                      is_stage=is_stage)
    verify_program(lowered)
    return lowered


def _axes(layout: ProgramLayout, rank: int) -> tuple[AxisRef, ...]:
    """The mesh's axes, as one rank sees them."""
    mesh = layout.mesh
    return tuple(
        AxisRef(name=n,
                size=s,
                coordinate=c,
                shares=parts,
                sequential=n == MICROBATCH)
        for n, s, c, parts in zip(mesh.names,
                                  mesh.sizes,
                                  mesh.coordinate(rank),
                                  rank_shares(layout.shares, mesh),
                                  strict=True))


class _Lowering:
    """The steps so far, and in which layout each value is held."""

    def __init__(self, program: Program, layout: ProgramLayout,
                 builder: KernelBuilder, tangents: tuple[int, ...]) -> None:
        self.program = program
        self.layout = layout
        self.builder = builder
        self.tangents = tangents
        self.kernels: dict[str, Kernel] = {}
        self.steps: list[RankStep] = []
        self.held: dict[str, tuple[TensorSpec, Layout]] = {
            name: (spec, layout.at_rest[name])
            for name, spec in program.specs.items()
        }
        self.replicated = (R, ) * len(layout.mesh.names)
        self.inputs: dict[str, str] = {}

    def run(self, *, local_inputs: bool, sharded_outputs: bool,
            is_stage: bool) -> RankProgram:
        live = _live_results(self.program, self.tangents)
        if not local_inputs:
            self._cut_inputs()
        for block in self.program.blocks:
            self._block(block, live)
        outputs = self.program.outputs if is_stage else tuple(
            self._output(name, sharded_outputs and i != self.program.loss
                         ) if name else None
            for i, name in enumerate(self.program.outputs))
        mutations = {
            b: self._written(b, v, is_stage)
            for b, v in self.program.mutations.items()
        }
        return RankProgram(kernels=self.kernels,
                           steps=tuple(self.steps),
                           outputs=outputs,
                           mutations=mutations,
                           tangents=self.tangents,
                           layouts={
                               n: layout
                               for n, (_, layout) in self.held.items()
                           },
                           takes=tuple(self.program.specs),
                           is_stage=is_stage)

    def _written(self, buffer: str, name: str, is_stage: bool) -> str:
        """A buffer's new value, as it rests; that of a stage is held over
        the micro-batches as they give it."""
        rest = self.layout.at_rest[buffer]
        if is_stage:
            _, held = self.held[self.inputs.get(name, name)]
            rest = (*rest[:-1], held[-1])
        return self._converted(name, rest)

    def _output(self, name: str, sharded: bool) -> str:
        """What is returned of a value: all of it, or this rank's shard."""
        if not sharded:
            return self._converted(name, self.replicated)
        _, layout = self.held[self.inputs.get(name, name)]
        return self._converted(name,
                               tuple(p if p.is_shard else R for p in layout))

    def _cut_inputs(self) -> None:
        """Whole inputs become the shards that the layouts ask for."""
        for name in self.program.specs:
            if value_kind(name) == "input":
                spec, wanted = self.held[name]
                self.held[name] = (spec, self.replicated)
                self.inputs[name] = self._converted(name, wanted)

    def _block(self, block: Block, live: Mapping[str, set[int]]) -> None:
        cls = self.program.class_of(block)
        layout = self.layout.classes[cls.name]
        if cls.name not in self.kernels:
            self.kernels[cls.name] = self.builder.of_class(
                cls, layout, self._arrivals(cls, block), live[cls.name])
        moves: dict[str, ParameterMove] = {}
        operands = tuple(
            self._operand(name, layout.hubs[node.meta["label"]], moves) for
            node, name in zip(cls.placeholders, block.operands, strict=True))
        self.steps.append(
            RankStep(name=block.name,
                     kernel=cls.name,
                     operands=operands,
                     results=block.results,
                     moves=moves))
        for node, name in zip(cls.results, block.results, strict=True):
            value = value_of(node)
            self.held[name] = (value.spec, hub_of(layout, value))

    def _arrivals(self, cls: BlockClass, block: Block) -> dict[str, Layout]:
        """Buffers and constants come as they rest, not in their hubs."""
        return {
            node.meta["label"]: self.layout.at_rest[name]
            for node, name in zip(
                cls.placeholders, block.operands, strict=True)
            if value_kind(name) in ("buffer", "const")
        }

    def _operand(self, name: str, hub: Layout,
                 moves: dict[str, ParameterMove]) -> str:
        """The local value that a placeholder takes."""
        kind = value_kind(name)
        if kind in ("buffer", "const"):
            return name
        if kind != "param":
            return self._converted(name, hub)
        spec, rest = self.held[name]
        move = parameter_move(name,
                              spec,
                              rest,
                              hub,
                              regather=name in self.layout.regather)
        if move is None:
            return name
        # The sum over micro-batches is the executor's; over one rank there
        # is none.
        axes = self.builder.axes
        move = dataclasses.replace(
            move,
            steps=tuple(
                s for s in move.steps
                if axes[s.axis].size > 1 and not axes[s.axis].sequential))
        used = f"{name} @ {format_layout(hub)}"
        moves[used] = move
        self.held[used] = (spec, hub)
        return used

    def _is_cut_anew(self, name: str) -> bool:
        """Whether shards are cut out of the whole input, which all ranks
        have, so that none is sent; a gradient would have to be."""
        return name in self.inputs and not self.held[name][0].requires_grad

    def _converted(self, name: str, target: Layout) -> str:
        """The value in another layout, through a step where one is due."""
        if not self._is_cut_anew(name):
            name = self.inputs.get(name, name)
        spec, source = self.held[name]
        steps = conversion_steps(source,
                                 target,
                                 differentiable=spec.requires_grad)
        if steps is None:
            raise LayoutError(
                f"{name} can't go from {format_layout(source)} to "
                f"{format_layout(target)} between blocks; choose another "
                "dim for one of the axes")
        if not steps:
            return name
        result = f"{name} @ {format_layout(target)}"
        if result in self.held:
            return result
        kernel = (f"convert {format_layout(source)} -> "
                  f"{format_layout(target)} : {spec_text(spec)}"
                  f"{'' if spec.requires_grad else ', constant'}")
        if kernel not in self.kernels:
            self.kernels[kernel] = self.builder.of_conversion(
                kernel, spec, steps)
        self.held[result] = (spec, target)
        self.steps.append(
            RankStep(name=result,
                     kernel=kernel,
                     operands=(name, ),
                     results=(result, )))
        return result


def _output_tangents(program: Program) -> tuple[int, ...]:
    """The loss, or every differentiable output where there is none."""
    candidates: Sequence[int] = range(len(program.outputs))
    if program.loss is not None:
        candidates = (program.loss, )
    return tuple(i for i in candidates if program.outputs[i] is not None)


def _live_results(program: Program,
                  tangents: Sequence[int]) -> dict[str, set[int]]:
    """Which results of each class some gradient can reach."""
    read: set[str | None] = {name for _, _, name in program.uses()}
    read |= {program.outputs[i] for i in tangents}
    live: dict[str, set[int]] = {}
    for block in program.blocks:
        found = live.setdefault(block.block_class, set())
        found |= {i for i, r in enumerate(block.results) if r in read}
    return live
