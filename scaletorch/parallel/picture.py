"""What a plan does to a model, as text: its program before and after.

Nothing runs, so that any number of ranks is drawn on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from passes.conversions import convert_node, step_placements
from passes.hoist_parameters import hoist_parameters
from passes.insert_collectives import insert_collectives
from passes.localize_shapes import localize_shapes
from passes.shard_parameters import parameter_move
from passes.text import joint_text, local_text
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.convert import Move, gradient_move, move
from planner.ir.layout import format_layout, local_shape
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Block, Program, value_kind
from planner.pipeline.build import pipelined
from planner.pipeline.means import count_ahead
from planner.planning import Planning
from planner.recipes import Recipe
from planner.schedule.named import make_schedule

__all__ = ["after", "before"]


def before(model: nn.Module,
           example_inputs: Any,
           *,
           block: str | None = None) -> str:
    """The single-device program: a line for each call, with global shapes.

    Parameters
    ----------
    model : nn.Module
        May be on meta.
    example_inputs : tuple or dict of Tensor
        The global batch; meta tensors will do.
    block : str, optional
        The class of blocks to print; left out, every class once.
    """
    program = capture(model, example_inputs)
    return "\n".join(
        joint_text(c.graph) for c in program.classes.values()
        if block in (None, c.name))


def after(model: nn.Module,
          example_inputs: Any,
          recipe: Recipe,
          mesh: Mapping[str, int],
          *,
          block: str | None = None) -> str:
    """What the first rank runs, before it is differentiated.

    First the movements of parameters; then a line for each call, with the
    shapes of this rank and the layout of the result. A ``convert`` says
    what is sent forwards and, for the gradient, backwards.

    Parameters
    ----------
    model : nn.Module
    example_inputs : tuple or dict of Tensor
        The global batch.
    recipe : Recipe
    mesh : mapping of str to int
        Ranks of each axis, ``{"dp": 2, "tp": 4}``.
    block : str, optional
        The class of blocks to print; left out, every class once.

    Raises
    ------
    ValueError
        When the recipe does not fit the mesh.
    """
    spec = MeshSpec(tuple(mesh), tuple(mesh.values()))
    program = capture(model, example_inputs)
    planning = Planning(program,
                        load_cluster("h100-sxm").resized(spec.world_size))
    chosen = planning.from_recipe(recipe, spec)
    if chosen.pipeline is None:
        return "\n".join(_program(program, chosen.layout, block))
    schedule = make_schedule(chosen.pipeline.schedule,
                             ranks=spec.size(chosen.pipeline.axis),
                             microbatches=chosen.pipeline.microbatches,
                             chunks=chosen.pipeline.chunks)
    parts = pipelined(count_ahead(program), chosen.layout, chosen.pipeline)
    lines = []
    for number, stage in enumerate(parts.stages):
        lines.append(f"stage {number}, on rank {schedule.stage_rank[number]}:")
        lines += [
            f"  {line}"
            for line in _program(stage.program, stage.layout, block)
        ]
    return "\n".join([*lines, "order of each rank's work:", str(schedule)])


def _program(program: Program, layout: ProgramLayout,
             only: str | None) -> Iterator[str]:
    layout = hoist_parameters(program, layout)
    seen: set[str] = set()
    for block in program.blocks:
        name = block.block_class
        if name not in seen and only in (None, name):
            seen.add(name)
            yield from _movements(program, block, layout)
            yield from _calls(program, block, layout)


def _movements(program: Program, block: Block,
               layout: ProgramLayout) -> Iterator[str]:
    """How each parameter of a block rests, and what moves it into use."""
    cls = program.class_of(block)
    for node, name in zip(cls.placeholders, block.operands, strict=True):
        if value_kind(name) != "param":
            continue
        rest = layout.at_rest[name]
        found = parameter_move(
            name,
            program.specs[name],
            rest,
            layout.classes[cls.name].hubs[node.meta["label"]],
            regather=name in layout.regather)
        shape = local_shape(program.specs[name].shape, rest, layout.mesh.sizes)
        line = f"{node.name} rests as {format_layout(rest)} {shape}"
        for step in found.steps if found else ():
            axis = layout.mesh.names[step.axis]
            if layout.mesh.size(axis) > 1:
                line += f"; {axis}: {_sent(step.forward, step.backward)}"
        yield line + (", gathered twice" if found and found.regather else "")


def _calls(program: Program, block: Block,
           layout: ProgramLayout) -> Iterator[str]:
    cls = program.class_of(block)
    arrives = {
        node.meta["label"]: layout.at_rest[name]
        for node, name in zip(cls.placeholders, block.operands, strict=True)
        if value_kind(name) in ("buffer", "const")
    }
    graph = localize_shapes(
        insert_collectives(cls, layout.classes[cls.name], layout.mesh,
                           arrives), layout.mesh)
    lines = local_text(graph, layout.mesh).splitlines()
    parameters = [
        node.name
        for node, name in zip(cls.placeholders, block.operands, strict=True)
        if value_kind(name) == "param"
    ]
    for node, line in zip(graph.nodes, lines, strict=True):
        if node.name not in parameters:
            yield line + _note(node)


def _note(node: fx.Node) -> str:
    if node.target is not convert_node:
        return ""
    source, target = step_placements(node)
    forward, backward = move(source, target), gradient_move(source, target)
    assert forward is not None and backward is not None
    return f"  # {_sent(forward, backward)}"


def _sent(forward: Move, backward: Move) -> str:
    return f"{forward.kind} forward, {backward.kind} backward"
