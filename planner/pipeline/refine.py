"""Blocks are divided where a pipeline is to be cut inside of them.

Needs a program and its layouts. Leaves the same calls in the same order;
a block that has cuts inside is a row of blocks, and what crosses between
them is a value between blocks, held as it was. A cut inside a block is
written ``BLOCK:CALL`` and comes before that call; the block that begins
there has this name.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence

from torch import fx

from planner.ir.errors import LayoutError
from planner.ir.layout import Layout
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import Block, BlockClass, Program
from planner.ir.values import Value, calls_of, is_getitem, value_of
from planner.ir.verify import hub_of
from planner.names import nearest
from planner.pipeline.slices import inner_name

__all__ = ["block_of_cut", "call_places", "has_cuts", "refined"]


def block_of_cut(cut: str) -> tuple[str, str]:
    """A cut's block and, where it lies inside, the call it comes before.

    Examples
    --------
    >>> block_of_cut("glue.0:down.conv2d"), block_of_cut("layers.4")
    (('glue.0', 'down.conv2d'), ('layers.4', ''))
    """
    block, _, call = cut.partition(":")
    return block, call


def call_places(cls: BlockClass) -> dict[str, int]:
    """The calls of a class, by label, in the order they run."""
    return {n.meta["label"]: i for i, n in enumerate(calls_of(cls.graph))}


def has_cuts(program: Program, cuts: Sequence[str]) -> bool:
    """Whether a program has the blocks and calls that cuts name."""
    classes = {b.name: program.class_of(b) for b in program.blocks}
    return all(
        name in classes and (not call or call in call_places(classes[name]))
        for name, call in map(block_of_cut, cuts))


def refined(program: Program, layout: ProgramLayout,
            cuts: Sequence[str]) -> tuple[Program, ProgramLayout]:
    """Divide the blocks that have cuts inside.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    cuts : sequence of str
        Those that are blocks' names change nothing.

    Raises
    ------
    LayoutError
        When a cut names a block or call that is not there, or the first
        call of a block.
    """
    inside: dict[str, list[str]] = {}
    for cut in cuts:
        name, call = block_of_cut(cut)
        if call:
            inside.setdefault(name, []).append(call)
    if not inside:
        return program, layout
    _check_blocks(program, inside)
    classes, layouts = dict(program.classes), dict(layout.classes)
    recompute = set(layout.recompute)
    blocks: list[Block] = []
    for block in program.blocks:
        if block.name not in inside:
            blocks.append(block)
            continue
        cls = program.class_of(block)
        places = _places(block, cls, inside[block.name])
        divided = _Divided(block, cls, layout.classes[cls.name], places)
        for number in range(len(places) + 1):
            own, laid, part = divided.part(number)
            classes[own.name], layouts[own.name] = own, laid
            blocks.append(part)
            if cls.name in recompute:
                recompute.add(own.name)
    used = {b.block_class for b in blocks}
    return (dataclasses.replace(program,
                                classes={
                                    n: c
                                    for n, c in classes.items() if n in used
                                },
                                blocks=tuple(blocks)),
            dataclasses.replace(layout,
                                classes={
                                    n: c
                                    for n, c in layouts.items() if n in used
                                },
                                recompute=frozenset(recompute & used)))


def _check_blocks(program: Program, inside: Mapping[str, object]) -> None:
    names = [b.name for b in program.blocks]
    for name in inside:
        if name not in names:
            raise LayoutError(f"pipeline: no block is named {name!r}; "
                              f"{nearest(name, names)}")


def _places(block: Block, cls: BlockClass,
            calls: Sequence[str]) -> dict[int, str]:
    """Number of the call that each part but the first begins with."""
    known = call_places(cls)
    found = {}
    for call in calls:
        if call not in known:
            raise LayoutError(f"pipeline: block {block.name} has no call "
                              f"{call!r}; {nearest(call, list(known))}")
        if known[call] == 0:
            raise LayoutError(f"pipeline: {call!r} is the first call of block "
                              f"{block.name}: write the cut as {block.name!r}")
        found[known[call]] = call
    return dict(sorted(found.items()))


class _Divided:
    """One block, to be taken apart."""

    def __init__(self, block: Block, cls: BlockClass, layout: ClassLayout,
                 places: Mapping[int, str]) -> None:
        self.block, self.cls, self.layout = block, cls, layout
        self.calls = list(places.values())
        starts = list(places)
        self.part_of = {
            node: sum(start <= i for start in starts)
            for i, node in enumerate(calls_of(cls.graph))
        }
        bound = dict(zip(cls.placeholders, block.operands, strict=True))
        self.names = {Value(n): name for n, name in bound.items()}
        self.names |= {
            value_of(node): name
            for node, name in zip(cls.results, block.results, strict=True)
            if value_of(node).node.op != "placeholder"
        }
        self.read = self._read()
        self.extra = [(value_of(n), name)
                      for n, name in zip(cls.results, block.results)]

    def _read(self) -> list[dict[Value, None]]:
        """What each part's calls take from outside of it, in order."""
        parts: list[dict[Value,
                         None]] = [{} for _ in range(len(self.calls) + 1)]
        for node, number in self.part_of.items():
            for value in map(value_of, node.all_input_nodes):
                if self.part_of.get(value.node) != number:
                    parts[number][value] = None
        return parts

    def _name(self, value: Value) -> str:
        if value in self.names:
            return self.names[value]
        name = inner_name(self.block, value)
        # A rewrite may have given a result another call than its name says.
        return f"{name}+" if name in self.block.results else name

    def _results(self, number: int) -> list[tuple[Value, str]]:
        """What a part gives: to later parts, and as the block did."""
        wanted = {v: self._name(v) for part in self.read for v in part}
        found = [(v, n) for v, n in self.extra
                 if self.part_of.get(v.node, 0) == number]
        named = {n for _, n in found}
        found += [(v, n) for v, n in wanted.items()
                  if self.part_of.get(v.node) == number and n not in named]
        return found

    def part(self, number: int) -> tuple[BlockClass, ClassLayout, Block]:
        """One part, with its layouts."""
        results = self._results(number)
        taken = dict(self.read[number])
        taken |= {v: None for v, _ in results if v.node.op == "placeholder"}
        name = f"{self.cls.name}.{self.block.name}.{number}"
        cls = BlockClass(name=name,
                         graph=self._graph(number, list(taken),
                                           [v for v, _ in results]))
        block = Block(name=self.block.name if number == 0 else
                      f"{self.block.name}:{self.calls[number - 1]}",
                      block_class=name,
                      operands=tuple(self._name(v) for v in taken),
                      results=tuple(n for _, n in results))
        return cls, self._layout(number, list(taken)), block

    def _graph(self, number: int, taken: Sequence[Value],
               results: Sequence[Value]) -> fx.Graph:
        graph = fx.Graph()
        made: dict[Value, fx.Node] = {}
        copies: dict[fx.Node, fx.Node] = {}
        for value in taken:
            made[value] = graph.placeholder(value.node.name)
            made[value].meta = self._meta(value)
        for node in self.cls.graph.nodes:
            if self.part_of.get(node) == number:
                copies[node] = graph.node_copy(
                    node, lambda n: self._operand(graph, made, copies, n))
        graph.output(tuple(
            self._pick(graph, made, copies, v) for v in results))
        return graph

    def _operand(self, graph: fx.Graph, made: dict[Value, fx.Node],
                 copies: Mapping[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
        value = value_of(node)
        if value in made:
            return made[value]
        return self._pick(graph, made, copies, value)

    def _pick(self, graph: fx.Graph, made: dict[Value, fx.Node],
              copies: Mapping[fx.Node, fx.Node], value: Value) -> fx.Node:
        if value not in made:
            node = copies[value.node]
            if isinstance(value.node.meta["spec"], tuple):
                source = next(u for u in value.node.users
                              if is_getitem(u) and value_of(u) == value)
                node = graph.call_function(operator.getitem,
                                           (node, value.index))
                node.meta = dict(source.meta)
            made[value] = node
        return made[value]

    def _meta(self, value: Value) -> dict[str, object]:
        """Of the placeholder that stands for a value from outside."""
        node = value.node
        if node.op == "placeholder":
            return dict(node.meta)
        meta = {k: v for k, v in node.meta.items() if k != "val"}
        return {
            **meta, "spec": value.spec,
            "label": value.label,
            "bound": self._name(value)
        }

    def _layout(self, number: int, taken: Sequence[Value]) -> ClassLayout:
        hubs: dict[str, Layout] = dict(self.layout.hubs)
        hubs |= {v.label: hub_of(self.layout, v) for v in taken}
        return ClassLayout(calls={
            n.meta["label"]: self.layout.calls[n.meta["label"]]
            for n, part in self.part_of.items() if part == number
        },
                           hubs=hubs)
