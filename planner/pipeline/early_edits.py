"""Which calls read values of the whole batch, and classes that let them.

A value that would move between micro-batches gets a placeholder of its own,
from which those that would have waited for it read instead.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from planner.ir.layout import Placement
from planner.ir.layouts import ProgramLayout
from planner.ir.program import BlockClass, Program, source_of
from planner.ir.values import Value, calls_of, consumers_of, outputs_of
from planner.ir.verify import hub_of
from planner.pipeline.microbatch import BY_POSITION, Crossing, crossings

__all__ = ["Edit", "edits_of", "with_placeholders"]


@dataclass(slots=True, kw_only=True)
class Edit:
    """One new placeholder of a class and who reads it."""

    value: Value
    target: Placement
    readers: list[tuple[fx.Node, int]]

    @property
    def label(self) -> str:
        """Of the placeholder."""
        return f"early.{self.value.label}.{self.target}"


def edits_of(program: Program, layout: ProgramLayout, *,
             exact: bool) -> dict[str, list[Edit]]:
    """The new placeholders of each class."""
    found: dict[str, dict[tuple[Value, Placement], Edit]] = {}
    for crossing in (*crossings(program, layout, exact=exact),
                     *_by_position(program, layout)):
        of_class = found.setdefault(crossing.block_class, {})
        key = (crossing.value, crossing.target)
        edit = of_class.setdefault(
            key, Edit(value=key[0], target=key[1], readers=[]))
        assert crossing.reader is not None
        edit.readers.append(crossing.reader)
    return {n: list(e.values()) for n, e in found.items()}


def _by_position(program: Program,
                 layout: ProgramLayout) -> Iterator[Crossing]:
    """Values whose shard depends on where in the batch it lies."""
    for name, cls in program.classes.items():
        chosen = layout.classes[name]
        found = [
            node for node in calls_of(cls.graph) if chosen.calls[
                node.meta["label"]].options[-1].lowering in BY_POSITION
        ]
        readers = consumers_of(cls.graph) if found else {}
        for node in found:
            for value in outputs_of(node):
                for reader, number in readers.get(value, ()):
                    yield Crossing(block_class=name,
                                   value=value,
                                   target=hub_of(chosen, value)[-1],
                                   reader=(reader, number))


def with_placeholders(cls: BlockClass, edits: list[Edit]) -> BlockClass:
    """The class with one more placeholder for each edit, in front."""
    graph = fx.Graph()
    wanted: dict[tuple[fx.Node, int], fx.Node] = {}
    for edit in edits:
        node = graph.placeholder(edit.label)
        node.meta = {
            "label": edit.label,
            "spec": dataclasses.replace(edit.value.spec, requires_grad=False),
            "bound": "early",
            "source": source_of(edit.value.node)
        }
        wanted |= {(reader, number): node for reader, number in edit.readers}
    made: dict[fx.Node, fx.Node] = {}
    for node in cls.graph.nodes:
        made[node] = graph.node_copy(node, lambda n: made[n])
        if node.op == "call_function":
            _redirect(made[node], node, wanted)
    result = BlockClass(name=cls.name, graph=graph)
    graph.eliminate_dead_code()
    return result


def _redirect(made: fx.Node, node: fx.Node, wanted: dict[tuple[fx.Node, int],
                                                         fx.Node]) -> None:
    """Give a copied call its early operands."""
    count = itertools.count()

    def operand(leaf: object) -> object:
        if not isinstance(leaf, fx.Node):
            return leaf
        return wanted.get((node, next(count)), leaf)

    args, kwargs = torch.utils._pytree.tree_map(operand,
                                                (made.args, made.kwargs))
    made.args, made.kwargs = tuple(args), dict(kwargs)
