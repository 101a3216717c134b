"""The verifiers between the passes: tables of what each pass leaves true."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from passes.collective_nodes import Collective, collectives_of
from passes.conversions import convert_node, step_placements
from passes.local_layouts import layouts_of, specs_of
from passes.split_backward import SplitBlock
from passes.steps import Kernel, RankProgram
from planner.ir.convert import gradient_move, move
from planner.ir.invariants import Invariant, check
from planner.ir.layout import Layout, R, format_layout
from planner.ir.layouts import CallLayout
from planner.ir.mesh import MeshSpec
from planner.ir.values import call_of
from planner.rules.draws import draws
from planner.rules.registry import TensorSpec

__all__ = [
    "AFTER_CONVERSIONS", "AFTER_LOCALIZING", "KERNEL", "Local", "Lowered",
    "PROGRAM", "RANKS", "verify_conversions", "verify_kernel", "verify_local",
    "verify_program", "verify_ranks"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A forward graph with conversions."""

    graph: fx.Graph
    mesh: MeshSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A kernel's graphs of local operators and collectives."""

    kernel: Kernel
    mesh: MeshSpec

    def graphs(self) -> Iterator[tuple[str, fx.Graph]]:
        for name, split in self.splits():
            yield f"{name} forward", split.forward
            if split.backward is not None:
                yield f"{name} backward", split.backward

    def splits(self) -> Iterator[tuple[str, SplitBlock]]:
        yield f"{self.kernel.name} train", self.kernel.train
        yield f"{self.kernel.name} infer", self.kernel.infer


def verify_conversions(graph: fx.Graph, mesh: MeshSpec) -> None:
    """Check what insert_collectives leaves; raises LayoutError."""
    check(AFTER_CONVERSIONS, Local(graph=graph, mesh=mesh))


def verify_local(graph: fx.Graph, mesh: MeshSpec) -> None:
    """Check what localize_shapes leaves; raises LayoutError."""
    check(AFTER_LOCALIZING, Local(graph=graph, mesh=mesh))


def verify_kernel(kernel: Kernel, mesh: MeshSpec) -> None:
    """Check what split_backward leaves; raises LayoutError."""
    check(KERNEL, Lowered(kernel=kernel, mesh=mesh))


def verify_program(program: RankProgram) -> None:
    """Check a rank's whole program; raises LayoutError."""
    check(PROGRAM, program)


def verify_ranks(programs: Sequence[RankProgram]) -> None:
    """Check that all ranks of a mesh meet in the same collectives.

    Every rank runs the same steps, and in each kernel the same sequence of
    (collective, axis, shape). So no rank waits for one that does something
    else: the program can't deadlock.

    Raises
    ------
    LayoutError
        With the first two ranks that differ.
    """
    check(RANKS, programs)


def _same(one: Layout, other: Layout, spec: TensorSpec) -> bool:
    """Without a gradient R and V are the same."""
    if spec.requires_grad:
        return one == other
    return len(one) == len(other) and all(
        a == b or a.is_replicated and b.is_replicated
        for a, b in zip(one, other))


def _false_sources(local: Local) -> Iterator[str]:
    layouts, specs = layouts_of(local.graph, local.mesh), specs_of(local.graph)
    for node in local.graph.nodes:
        if node.target is convert_node:
            axis = local.mesh.index(node.kwargs["axis"])
            source, _ = step_placements(node)
            found = layouts[node.args[0]][axis]
            if not _same((source, ), (found, ), specs[node]):
                yield f"{node} starts at {source} and is given {found}"


def _impossible_steps(local: Local) -> Iterator[str]:
    specs = specs_of(local.graph)
    for node in local.graph.nodes:
        if node.target is convert_node:
            source, target = step_placements(node)
            back = not specs[node].requires_grad or gradient_move(
                source, target) is not None
            if move(source, target) is None or not back:
                yield f"{node} from {source} to {target}"


def _false_operands(local: Local) -> Iterator[str]:
    layouts, specs = layouts_of(local.graph, local.mesh), specs_of(local.graph)
    for node in local.graph.nodes:
        if "options" not in node.meta:
            continue
        chosen = CallLayout(options=node.meta["options"])
        leaves = torch.utils._pytree.tree_leaves((node.args, node.kwargs))
        operands = [x for x in leaves if isinstance(x, fx.Node)]
        for i, operand in enumerate(operands):
            if not _same(layouts[operand], chosen.input(i), specs[operand]):
                yield (f"{node} wants operand {i} as "
                       f"{format_layout(chosen.input(i))} and is given "
                       f"{format_layout(layouts[operand])}")


def _false_results(local: Local) -> Iterator[str]:
    layouts, specs = layouts_of(local.graph, local.mesh), specs_of(local.graph)
    out = local.graph.output_node()
    for node, promised in zip(out.args[0], out.meta["layout"], strict=True):
        if not _same(layouts[node], promised, specs[node]):
            yield (f"{node} is promised as {format_layout(promised)} and is "
                   f"{format_layout(layouts[node])}")


def _unbound_lowerings(local: Local) -> Iterator[str]:
    for node in local.graph.nodes:
        asked = [
            o.lowering for o in node.meta.get("options", ()) if o.lowering
        ]
        if asked and "lowering" not in node.meta:
            yield f"{node} asks for {asked[0]}"


def _unmarked_draws(local: Local) -> Iterator[str]:
    for node in local.graph.nodes:
        if "node" in node.meta and "random" not in node.meta:
            if draws(call_of(node.meta["node"])):
                yield f"{node}"


def _strange_axes(lowered: Lowered) -> Iterator[str]:
    for name, found in _collectives(lowered):
        if found.axis not in lowered.mesh.names:
            yield f"{name}: {found.node} over {found.axis!r}"


def _false_sizes(lowered: Lowered) -> Iterator[str]:
    for name, found in _collectives(lowered):
        text = found.misfit(lowered.mesh.size(found.axis))
        if text:
            yield f"{name}: {found.node}: {text}"


def _collectives(lowered: Lowered) -> Iterator[tuple[str, Collective]]:
    for name, graph in lowered.graphs():
        for found in collectives_of(graph):
            yield name, found


def _unawaited(lowered: Lowered) -> Iterator[str]:
    wait = torch.ops._c10d_functional.wait_tensor.default
    for name, found in _collectives(lowered):
        if [u.target for u in found.node.users] != [wait]:
            yield f"{name}: {found.node}"


def _unsaved(lowered: Lowered) -> Iterator[str]:
    for name, split in lowered.splits():
        if split.backward is None:
            continue
        results = split.forward.output_node().args[0]
        given = (len(results) - split.results + len(split.saved_operands) +
                 len(split.tangents))
        read = sum(n.op == "placeholder" for n in split.backward.nodes)
        if given != read:
            yield f"{name} gives {given} values and reads {read}"


def _false_gradients(lowered: Lowered) -> Iterator[str]:
    for name, split in lowered.splits():
        if split.backward is None:
            continue
        operands = [n for n in split.forward.nodes if n.op == "placeholder"]
        grads = split.backward.output_node().args[0]
        if len(grads) != len(operands):
            yield f"{name} has {len(operands)} operands"
            return
        for i, (operand, grad) in enumerate(zip(operands, grads)):
            if (grad is not None) != (i in split.gradients):
                yield f"{name}: {operand} is not as listed"
            elif grad is not None:
                shapes = [tuple(n.meta["val"].shape) for n in (operand, grad)]
                if shapes[0] != shapes[1]:
                    yield (f"{name}: {operand} of shape {shapes[0]} has a "
                           f"gradient of shape {shapes[1]}")


def _partial_outputs(program: RankProgram) -> Iterator[str]:
    for name in program.outputs:
        if name is not None and not program.is_stage and any(
                p != R and not p.is_shard for p in program.layouts[name]):
            yield f"{name} is {format_layout(program.layouts[name])}"


def _unmade_values(program: RankProgram) -> Iterator[str]:
    made = set(program.takes)
    for step in program.steps:
        for name in step.operands:
            move_in = step.moves.get(name)
            if (name if move_in is None else move_in.source) not in made:
                yield f"{step.name} reads {name}"
        made.update(step.results)
    for returned in (*program.outputs, *program.mutations.values()):
        if returned is not None and returned not in made:
            yield f"the program returns {returned}"


def _other_mutations(program: RankProgram) -> Iterator[str]:
    for buffer, name in program.mutations.items():
        one, other = program.layouts[buffer], program.layouts[name]
        if program.is_stage:
            # Over the micro-batches it is put together after the last.
            one, other = one[:-1], other[:-1]
        if one != other:
            yield (f"{buffer} rests as {format_layout(one)} and {name} is "
                   f"{format_layout(other)}")


def _other_steps(programs: Sequence[RankProgram]) -> Iterator[str]:
    first = _schedule(programs[0])
    for rank, program in enumerate(programs):
        for step, own in itertools.zip_longest(first, _schedule(program)):
            if step != own:
                yield f"rank 0 runs {step} where rank {rank} runs {own}"


def _schedule(program: RankProgram) -> list[tuple[str, ...]]:
    return [(s.name, s.kernel, *s.operands) for s in program.steps]


def _other_collectives(programs: Sequence[RankProgram]) -> Iterator[str]:
    for name in programs[0].kernels:
        sequences = [_sequence(p.kernels[name]) for p in programs]
        for rank, own in enumerate(sequences):
            for one, other in itertools.zip_longest(sequences[0], own):
                if one != other:
                    yield (f"in {name} rank 0 does {one} where rank {rank} "
                           f"does {other}")


def _sequence(kernel: Kernel) -> list[str]:
    graphs = [
        kernel.train.forward, kernel.train.backward, kernel.infer.forward
    ]
    return [
        str(found) for graph in graphs if graph is not None
        for found in collectives_of(graph)
    ]


def _defect(name: str, broken: Callable[[Any], Iterator[str]]) -> Invariant:
    """A row of which only a pass can break what it says."""
    return Invariant(name=name,
                     broken=broken,
                     hint="this is a defect of a pass; report it with the "
                     "printed graphs")


AFTER_CONVERSIONS = (
    _defect("a conversion starts where its operand lies", _false_sources),
    _defect("every conversion has its collectives, forward and "
            "backward", _impossible_steps),
    _defect(
        "operands arrive as the call's options ask, so that no "
        "partial value reaches an operator that is not linear in it",
        _false_operands),
    _defect("results leave as their hubs say", _false_results),
)
"""Of a graph out of insert_collectives."""

AFTER_LOCALIZING = (
    *AFTER_CONVERSIONS,
    _defect("calls whose options ask for a lowering have one",
            _unbound_lowerings),
    _defect("calls that draw numbers have a stream", _unmarked_draws),
)
"""Of a graph out of localize_shapes."""

KERNEL = (
    _defect("collectives run over axes of the mesh", _strange_axes),
    _defect("collectives turn their input's shape into their "
            "output's", _false_sizes),
    _defect("every collective is waited for once", _unawaited),
    _defect("the forward gives what the backward reads", _unsaved),
    _defect(
        "the backward returns one gradient of the local shape "
        "for each operand that has one", _false_gradients),
)
"""Of a kernel out of split_backward."""

PROGRAM = (
    _defect("steps read what was made before", _unmade_values),
    _defect("outputs are whole or sharded", _partial_outputs),
    _defect("new buffer values lie as the buffers", _other_mutations),
)
"""Of one rank's program."""

RANKS = (
    _defect("all ranks run the same steps", _other_steps),
    _defect("all ranks meet in the same collectives", _other_collectives),
)
"""Of the programs of all ranks of a mesh."""
