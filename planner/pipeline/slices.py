"""Slices of a program: the calls that some values need, and no others.

Used where values are computed apart from their blocks: before the first
micro-batch, or once more on a later stage.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx

from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import Block, BlockClass, Program, value_kind
from planner.ir.values import Value, call_of, calls_of, is_getitem, value_of
from planner.rules.draws import draws

__all__ = ["Slice", "inner_name", "slice_layouts", "slice_of"]


@dataclass(slots=True)
class Slice:
    """A part of a program.

    Parameters
    ----------
    classes : dict of str to BlockClass
    blocks : list of Block
        In execution order.
    leaves : set of str
        Parameters, buffers, constants and inputs that it reads.
    origin : dict of str to str
        Its classes to those they were cut from.
    draws : bool
        Whether it draws random numbers.
    """

    classes: dict[str, BlockClass] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    leaves: set[str] = field(default_factory=set)
    origin: dict[str, str] = field(default_factory=dict)
    draws: bool = False

    @property
    def reads_parameters(self) -> bool:
        return any(value_kind(n) == "param" for n in self.leaves)


def inner_name(block: Block, value: Value) -> str:
    """The global name that a value inside a block has, or would have."""
    return f"{block.name}/{value.label}"


def slice_of(
    program: Program,
    names: Collection[str],
    inner: Mapping[str, Collection[Value]] | None = None,
) -> Slice:
    """Cut out what some values need.

    Parameters
    ----------
    program : Program
    names : collection of str
        Global names.
    inner : mapping of str to collection of Value, optional
        Values inside of blocks, by block; they get the name
        :func:`inner_name`.
    """
    wanted, inner = set(names), inner or {}
    found = Slice()
    made: dict[tuple[str, tuple[str, ...]], BlockClass] = {}
    for block in reversed(program.blocks):
        cls = program.class_of(block)
        values = _wanted_values(cls, block, wanted, inner)
        if not values:
            continue
        order = sorted(values, key=lambda v: v.label)
        key = (cls.name, tuple(v.label for v in order))
        if key not in made:
            name = f"{cls.name}.part{len(made)}"
            made[key] = _part(cls, order, name)
            found.origin[name] = cls.name
        part = made[key]
        found.draws |= any(draws(call_of(n)) for n in calls_of(part.graph))
        bound = dict(
            zip((n.meta["label"] for n in cls.placeholders), block.operands))
        operands = tuple(bound[n.meta["label"]] for n in part.placeholders)
        wanted |= {n for n in operands if value_kind(n) == "value"}
        found.leaves |= {n for n in operands if value_kind(n) != "value"}
        found.blocks.append(
            Block(name=f"{block.name}.part",
                  block_class=part.name,
                  operands=operands,
                  results=tuple(values[v] for v in order)))
    found.leaves |= _given_values(program, wanted, found.blocks)
    found.blocks.reverse()
    found.classes = {c.name: c for c in made.values()}
    return found


def _wanted_values(cls: BlockClass, block: Block, names: Collection[str],
                   inner: Mapping[str, Collection[Value]]) -> dict[Value, str]:
    """What is wanted of a block, and under which global names."""
    values = {
        value_of(node): name
        for node, name in zip(cls.results, block.results, strict=True)
        if name in names
    }
    return values | {
        v: inner_name(block, v)
        for v in inner.get(block.name, ()) if v not in values
    }


def _given_values(program: Program, wanted: Collection[str],
                  blocks: Collection[Block]) -> set[str]:
    """What no block of a slice makes: parameters, inputs, and values that
    are given to the program, as by an earlier stage."""
    produced = {r for b in blocks for r in b.results}
    return {
        n
        for n in wanted if value_kind(n) != "value" or (
            n in program.specs and n not in produced)
    }


def _part(cls: BlockClass, values: list[Value], name: str) -> BlockClass:
    needed = {v.node for v in values}
    for node in reversed(list(cls.graph.nodes)):
        if node in needed:
            needed.update(node.all_input_nodes)
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in cls.graph.nodes:
        if node in needed and node.op != "output":
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.output(tuple(_picked(graph, made, v) for v in values))
    return BlockClass(name=name, graph=graph)


def _picked(graph: fx.Graph, made: Mapping[fx.Node, fx.Node],
            value: Value) -> fx.Node:
    """The node that stands for one output of another."""
    if not isinstance(value.node.meta["spec"], tuple):
        return made[value.node]
    for user in value.node.users:
        if is_getitem(user) and user.args[1] == value.index and user in made:
            return made[user]
    node = graph.call_function(operator.getitem,
                               (made[value.node], value.index))
    node.meta = {"spec": value.spec, "label": value.label}
    return node


def slice_layouts(found: Slice,
                  layout: ProgramLayout) -> dict[str, ClassLayout]:
    """The layouts of a slice's classes: those of what it was cut from."""
    return {
        name: layout.classes[origin]
        for name, origin in found.origin.items()
    }
