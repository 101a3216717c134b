"""The pass manager: a program and its layouts become one rank's program.

Runs the passes in order, once per block class, and puts the blocks and
the conversions between them into one list of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import fx

from passes.collectives import AxisRef
from passes.differentiate import differentiate
from passes.insert_collectives import convert_node, insert_collectives
from passes.localize_shapes import localize_shapes
from passes.shard_parameters import ParameterMove, parameter_move
from passes.split_backward import SplitBlock, split_backward
from planner.ir.convert import conversion_steps
from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, R, format_layout
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Block, BlockClass, Program, value_kind
from planner.ir.values import value_of
from planner.rules.registry import TensorSpec

__all__ = ["Kernel", "RankProgram", "RankStep", "lower"]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A block class or a conversion, lowered for training and inference."""

    name: str
    train: SplitBlock
    infer: SplitBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """One run of a kernel on named local values.

    `moves` are the operands that are parameters on their way into use, by
    operand name.
    """

    name: str
    kernel: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    moves: Mapping[str, ParameterMove] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RankProgram:
    """What one rank runs.

    Parameters
    ----------
    kernels : mapping of str to Kernel
    steps : tuple of RankStep
        In forward order.
    outputs : tuple of str or None
        Local value of each output leaf of the program, replicated.
    mutations : mapping of str to str
        Buffer to the local value written back.
    tangents : tuple of int
        Output leaves that take a gradient.
    """

    kernels: Mapping[str, Kernel]
    steps: tuple[RankStep, ...]
    outputs: tuple[str | None, ...]
    mutations: Mapping[str, str]
    tangents: tuple[int, ...]


def lower(program: Program, layout: ProgramLayout, rank: int, *,
          device: torch.device, local_inputs: bool = False,
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
    dump_dir : Path, optional
        Folder to which every pass writes its printed graphs.

    Raises
    ------
    LayoutError
        When the layouts do not fit the program.
    """
    lowering = _Lowering(program, layout, rank, device, dump_dir)
    return lowering.run(local_inputs=local_inputs)


class _Lowering:

    def __init__(self, program: Program, layout: ProgramLayout, rank: int,
                 device: torch.device, dump_dir: Path | None) -> None:
        self.program = program
        self.layout = layout
        self.device = device
        self.dump_dir = dump_dir
        place = layout.mesh.coordinate(rank)
        self.axes = tuple(
            AxisRef(name=n, size=s, coordinate=c) for n, s, c in zip(
                layout.mesh.names, layout.mesh.sizes, place, strict=True))
        self.kernels: dict[str, Kernel] = {}
        self.steps: list[RankStep] = []
        self.held: dict[str, tuple[TensorSpec, Layout]] = {
            name: (spec, layout.at_rest[name])
            for name, spec in program.specs.items()}
        self.replicated = (R, ) * len(self.axes)
        self.inputs: dict[str, str] = {}

    def run(self, *, local_inputs: bool) -> RankProgram:
        live = self._live_tangents()
        if not local_inputs:
            self._cut_inputs()
        for block in self.program.blocks:
            self._block(block, live)
        outputs = tuple(self._converted(name, self.replicated)
                        if name else None for name in self.program.outputs)
        mutations = {b: self._converted(v, self.layout.at_rest[b])
                     for b, v in self.program.mutations.items()}
        return RankProgram(kernels=self.kernels, steps=tuple(self.steps),
                           outputs=outputs, mutations=mutations,
                           tangents=self._output_tangents())

    def _cut_inputs(self) -> None:
        """Whole inputs become the shards that the layouts ask for."""
        for name in self.program.specs:
            if value_kind(name) == "input":
                spec, wanted = self.held[name]
                self.held[name] = (spec, self.replicated)
                self.inputs[name] = self._converted(name, wanted)

    def _output_tangents(self) -> tuple[int, ...]:
        """The loss, or every differentiable output where there is none."""
        program = self.program
        if program.loss is not None:
            candidates: Sequence[int] = (program.loss, )
        else:
            candidates = range(len(program.outputs))
        return tuple(i for i in candidates
                     if program.outputs[i] is not None)

    def _live_tangents(self) -> dict[str, set[int]]:
        """Which results of each class some gradient can reach."""
        program = self.program
        read = {name for _, _, name in program.uses()}
        read |= {program.outputs[i] for i in self._output_tangents()
                 if program.outputs[i]}  # type: ignore[misc]
        live: dict[str, set[int]] = {}
        for block in program.blocks:
            found = live.setdefault(block.block_class, set())
            found |= {i for i, r in enumerate(block.results) if r in read}
        return live

    def _block(self, block: Block, live: Mapping[str, set[int]]) -> None:
        cls = self.program.class_of(block)
        if cls.name not in self.kernels:
            self.kernels[cls.name] = self._kernel(cls, block,
                                                  live[cls.name])
        hubs = self.layout.classes[cls.name].hubs
        moves: dict[str, ParameterMove] = {}
        operands = tuple(
            self._operand(name, hubs[node.meta["label"]], moves)
            for node, name in zip(cls.placeholders, block.operands,
                                  strict=True))
        self.steps.append(RankStep(name=block.name, kernel=cls.name,
                                   operands=operands, results=block.results,
                                   moves=moves))
        for node, name in zip(cls.results, block.results, strict=True):
            value = value_of(node)
            self.held[name] = (value.spec, self._hub(cls, value))

    def _operand(self, name: str, hub: Layout,
                 moves: dict[str, ParameterMove]) -> str:
        """The local value that a placeholder takes."""
        kind = value_kind(name)
        if kind in ("buffer", "const"):
            return name
        if kind != "param":
            return self._converted(name, hub)
        spec, rest = self.held[name]
        move = parameter_move(name, spec, rest, hub,
                              regather=name in self.layout.regather)
        if move is None:
            return name
        used = f"{name} @ {format_layout(hub)}"
        moves[used] = move
        return used

    def _hub(self, cls: BlockClass, value: object) -> Layout:
        layout = self.layout.classes[cls.name]
        label = value.label  # type: ignore[attr-defined]
        if label in layout.hubs:
            return layout.hubs[label]
        node = value.node  # type: ignore[attr-defined]
        return layout.calls[node.meta["label"]].output(
            _output_number(node, value.index))  # type: ignore[attr-defined]

    def _kernel(self, cls: BlockClass, block: Block,
                live: set[int]) -> Kernel:
        layout = self.layout
        arrives = {
            node.meta["label"]: layout.at_rest[name]
            for node, name in zip(cls.placeholders, block.operands,
                                  strict=True)
            if value_kind(name) in ("buffer", "const")}
        graph = insert_collectives(cls, layout.classes[cls.name],
                                   layout.mesh, arrives)
        self._dump("insert_collectives", cls.name, graph)
        graph = localize_shapes(graph, layout.mesh)
        self._dump("localize_shapes", cls.name, graph)
        specs = [(n.meta["spec"], arrives.get(
            n.meta["label"],
            layout.classes[cls.name].hubs[n.meta["label"]]))
            for n in cls.placeholders]
        return self._split(cls.name, graph, specs, live)

    def _split(self, name: str, graph: fx.Graph,
               specs: Sequence[tuple[TensorSpec, Layout]],
               live: set[int]) -> Kernel:
        train, infer = (
            differentiate(graph, self.axes, device=self.device, specs=specs,
                          wanted=wanted) for wanted in (live, ()))
        self._dump("differentiate", name, train.graph)
        kernel = Kernel(
            name=name, train=split_backward(train),
            infer=split_backward(infer))
        self._dump("split_forward", name, kernel.train.forward)
        if kernel.train.backward is not None:
            self._dump("split_backward", name, kernel.train.backward)
        return kernel

    def _converted(self, name: str, target: Layout) -> str:
        """The value in another layout, through a step where one is due."""
        name = self.inputs.get(name, name)
        spec, source = self.held[name]
        steps = conversion_steps(source, target,
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
                  f"{format_layout(target)} {spec}")
        if kernel not in self.kernels:
            graph = fx.Graph()
            node = graph.placeholder("value")
            for step in steps:
                node = graph.call_function(
                    convert_node, (node, ),
                    {"axis": self.layout.mesh.names[step.axis],
                     "source": str(step.source), "target": str(step.target)})
            graph.output((node, ))
            self.kernels[kernel] = self._split(
                kernel, graph, [(spec, source)], {0})
        self.held[result] = (spec, target)
        self.steps.append(RankStep(name=result, kernel=kernel,
                                   operands=(name, ), results=(result, )))
        return result

    def _dump(self, stage: str, name: str, graph: fx.Graph) -> None:
        if self.dump_dir is None:
            return
        order = ("insert_collectives", "localize_shapes", "differentiate",
                 "split_forward", "split_backward")
        safe = "".join(c if c.isalnum() else "_" for c in name)
        self.dump_dir.mkdir(parents=True, exist_ok=True)
        path = self.dump_dir / f"{order.index(stage):02}_{stage}.{safe}.txt"
        path.write_text(f"{graph}\n", encoding="utf-8")


def _output_number(node: fx.Node, index: int) -> int:
    spec = node.meta["spec"]
    if not isinstance(spec, tuple):
        return 0
    return sum(s is not None for s in spec[:index])
