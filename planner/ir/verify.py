"""The verifier of layouts: a table of what a plan must be.

Runs after planning and before lowering. Later rows count on the earlier
ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from planner.ir.convert import conversion_steps
from planner.ir.invariants import Invariant, check
from planner.ir.layout import Layout, R, format_layout, local_shape
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.program import (Block, BlockClass, Program, source_of,
                                value_kind)
from planner.ir.values import (Value, call_of, calls_of, operands_of,
                               outputs_of, value_of)
from planner.rules import TensorSpec, options

__all__ = [
    "Holder", "INVARIANTS", "Planned", "edges", "held_at", "held_values",
    "hub_of", "makers", "place_of", "values_of", "verify_layout"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A program with the layouts that are to be checked."""

    program: Program
    layout: ProgramLayout

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.layout.mesh.sizes

    def classes(self) -> Iterator[tuple[BlockClass, ClassLayout]]:
        for name, cls in self.program.classes.items():
            yield cls, self.layout.classes[name]

    def calls(self) -> Iterator[tuple[fx.Node, CallLayout]]:
        for cls, layout in self.classes():
            for node in calls_of(cls.graph):
                yield node, layout.calls[node.meta["label"]]


def verify_layout(program: Program, layout: ProgramLayout) -> None:
    """Check layouts against a program.

    Raises
    ------
    LayoutError
        Naming the invariant, the place and what to try.
    """
    check(INVARIANTS, Planned(program=program, layout=layout))


def hub_of(layout: ClassLayout, value: Value) -> Layout:
    """Where a value is held: its hub, or else as its call makes it."""
    if value.label in layout.hubs:
        return layout.hubs[value.label]
    number = outputs_of(value.node).index(value)
    return layout.calls[value.node.meta["label"]].output(number)


Holder = str | tuple[str, Value]
"""What says how a value is held: its own name at rest, or the class that
makes it and which value of it that is."""


def makers(program: Program) -> dict[str, tuple[str, Value]]:
    """Of what blocks make, by global name, the class and its value."""
    return {
        name: (block.block_class, value_of(node))
        for block in program.blocks
        for node, name in zip(
            program.class_of(block).results, block.results, strict=True)
    }


def held_at(layout: ProgramLayout, holder: Holder) -> Layout:
    """How a value is held."""
    if isinstance(holder, str):
        return layout.at_rest[holder]
    name, value = holder
    return hub_of(layout.classes[name], value)


def held_values(program: Program,
                layout: ProgramLayout) -> dict[str, tuple[TensorSpec, Layout]]:
    """Every value between blocks, by global name, with how it is held."""
    held = {n: (s, layout.at_rest[n]) for n, s in program.specs.items()}
    for name, holder in makers(program).items():
        held[name] = holder[1].spec, held_at(layout, holder)
    return held


def _incomplete(planned: Planned) -> Iterator[str]:
    for cls, layout in _known_classes(planned):
        if layout is None:
            yield f"class {cls.name} has no layout"
            continue
        for node in calls_of(cls.graph):
            if node.meta["label"] not in layout.calls:
                yield f"{place_of(node)} has no options"
        for node in cls.placeholders:
            if node.meta["label"] not in layout.hubs:
                yield f"{cls.name}: {node.meta['label']} has no hub"
    for name in planned.program.specs:
        if name not in planned.layout.at_rest:
            yield f"{name} has no layout at rest"


def _known_classes(
        planned: Planned) -> Iterator[tuple[BlockClass, ClassLayout | None]]:
    for name, cls in planned.program.classes.items():
        yield cls, planned.layout.classes.get(name)


def _wrong_length(planned: Planned) -> Iterator[str]:
    count = len(planned.sizes)
    for name, rest in planned.layout.at_rest.items():
        if len(rest) != count:
            yield f"{name} rests as {format_layout(rest)}"
    for cls, layout in planned.classes():
        for label, hub in layout.hubs.items():
            if len(hub) != count:
                yield f"{cls.name}: {label} is held {format_layout(hub)}"
    for node, chosen in planned.calls():
        if len(chosen.options) != count:
            yield f"{place_of(node)} has {len(chosen.options)} options"


def _illegal(planned: Planned) -> Iterator[str]:
    for node, chosen in planned.calls():
        call = call_of(node)
        for option, size, axis in zip(chosen.options,
                                      planned.sizes,
                                      planned.layout.mesh.names,
                                      strict=True):
            legal = options(call, size)
            if option not in legal:
                yield (
                    f"{place_of(node)} over {axis}={size}: {option} is none "
                    f"of {'; '.join(map(str, legal))}")


def _impossible_shapes(planned: Planned) -> Iterator[str]:
    for name, rest in planned.layout.at_rest.items():
        if name in planned.program.specs:
            yield from _misfit(planned, name, planned.program.specs[name],
                               rest)
    for node, chosen in planned.calls():
        call = call_of(node)
        for i, spec in enumerate(call.inputs):
            yield from _misfit(planned, f"{place_of(node)} operand {i}", spec,
                               chosen.input(i))
        for i, spec in enumerate(call.outputs):
            yield from _misfit(planned, f"{place_of(node)} result {i}", spec,
                               chosen.output(i))
    for cls, layout in planned.classes():
        for value in values_of(cls):
            yield from _misfit(planned, f"{cls.name}: {value}", value.spec,
                               hub_of(layout, value))


def _misfit(planned: Planned, what: str, spec: TensorSpec,
            layout: Layout) -> Iterator[str]:
    text = f"{what} of shape {spec.shape} as {format_layout(layout)}"
    if any(p.is_shard and p.dim >= spec.ndim for p in layout):
        yield f"{text} has no such dim"
        return
    try:
        local_shape(spec.shape, layout, planned.sizes)
    except ValueError as error:
        yield f"{text}: {error}"


def values_of(cls: BlockClass) -> Iterator[Value]:
    """What a block class takes and computes."""
    for node in cls.placeholders:
        yield Value(node)
    for node in calls_of(cls.graph):
        yield from outputs_of(node)


def _partial_extrema(planned: Planned) -> Iterator[str]:
    for cls, layout in planned.classes():
        for value in values_of(cls):
            for placement in hub_of(layout, value):
                if value.spec.requires_grad and placement.reduce != "sum":
                    yield f"{cls.name}: {value} is held {placement}"


def _restless(planned: Planned) -> Iterator[str]:
    for name, rest in planned.layout.at_rest.items():
        # What a stage takes from another one comes as that one holds it.
        if value_kind(name) != "value" and any(
                p.parts or p.is_partial or p.value != p.grad for p in rest):
            yield f"{name} rests as {format_layout(rest)}"


def edges(
        planned: Planned) -> Iterator[tuple[str, TensorSpec, Layout, Layout]]:
    """Every change of layout: of what, and from which to which."""
    for edge in (_call_edges, _into_blocks, _ends):
        yield from edge(planned)


def _broken_edges(planned: Planned) -> Iterator[str]:
    for edge in _call_edges(planned):
        yield from _unreachable(*edge)


def _call_edges(
        planned: Planned) -> Iterator[tuple[str, TensorSpec, Layout, Layout]]:
    for cls, layout in planned.classes():
        for node in calls_of(cls.graph):
            chosen = layout.calls[node.meta["label"]]
            for i, value in enumerate(operands_of(node)):
                yield (f"operand {i} of {place_of(node)}", value.spec,
                       hub_of(layout, value), chosen.input(i))
            for i, value in enumerate(outputs_of(node)):
                yield (f"result {i} of {place_of(node)}", value.spec,
                       chosen.output(i), hub_of(layout, value))


def _broken_block_edges(planned: Planned) -> Iterator[str]:
    for edge in _into_blocks(planned):
        yield from _unreachable(*edge)


def _into_blocks(
        planned: Planned) -> Iterator[tuple[str, TensorSpec, Layout, Layout]]:
    for block, what, spec, source, target in _block_edges(planned):
        yield f"{what} into {block.name}", spec, source, target


def _block_edges(
    planned: Planned
) -> Iterator[tuple[Block, str, TensorSpec, Layout, Layout]]:
    program, held = planned.program, dict(planned.layout.at_rest)
    for block in program.blocks:
        cls = program.class_of(block)
        layout = planned.layout.classes[cls.name]
        for node, name in zip(cls.placeholders, block.operands, strict=True):
            yield (block, name, node.meta["spec"], held[name],
                   layout.hubs[node.meta["label"]])
        for node, name in zip(cls.results, block.results, strict=True):
            held[name] = hub_of(layout, value_of(node))


def _broken_ends(planned: Planned) -> Iterator[str]:
    for edge in _ends(planned):
        yield from _unreachable(*edge)


def _ends(
        planned: Planned) -> Iterator[tuple[str, TensorSpec, Layout, Layout]]:
    program = planned.program
    ends = held_values(program, planned.layout)
    whole = (R, ) * len(planned.sizes)
    for output in program.outputs:
        if output is not None:
            yield f"output {output}", *ends[output], whole
    for buffer, name in program.mutations.items():
        yield (f"new value of {buffer}", *ends[name],
               planned.layout.at_rest[buffer])
    for name, (spec, rest) in ends.items():
        if value_kind(name) == "input":
            yield name, spec, whole, rest


def _unreachable(what: str, spec: TensorSpec, source: Layout,
                 target: Layout) -> Iterator[str]:
    if conversion_steps(source, target,
                        differentiable=spec.requires_grad) is None:
        yield (f"{what} from {format_layout(source)} to "
               f"{format_layout(target)}")


def _unknown_regathers(planned: Planned) -> Iterator[str]:
    yield from sorted(planned.layout.regather - set(planned.program.params))


def place_of(node: fx.Node) -> str:
    """A call's label, and where it is in the model's source."""
    return f"{node.meta['label']} at {source_of(node)}"


INVARIANTS = (
    Invariant(name="every call, placeholder and value at rest has a layout",
              broken=_incomplete,
              hint="plan again for this model"),
    Invariant(name="every layout has one placement for each mesh axis",
              broken=_wrong_length,
              hint="plan again for this mesh"),
    Invariant(name="values rest as R or S, so that gradients arrive as "
              "parameters lie",
              broken=_restless,
              hint="let it rest as R or S(dim)"),
    Invariant(name="every call runs one of its options",
              broken=_illegal,
              hint="choose one of those"),
    Invariant(name="every sharded dim exists and divides over its axes",
              broken=_impossible_shapes,
              hint="choose another dim or a mesh that divides it"),
    Invariant(name="partial maxima and minima carry no gradient",
              broken=_partial_extrema,
              hint="hold it reduced"),
    Invariant(name="every value can go from where it is held to where it "
              "is used",
              broken=_broken_edges,
              hint="an inner axis shards the same dim or there is no "
              "collective; choose another dim for one of the axes"),
    Invariant(name="every value can go from block to block",
              broken=_broken_block_edges,
              hint="an inner axis shards the same dim; choose another dim "
              "for one of the axes"),
    Invariant(name="outputs can be made whole, and new buffer values lie "
              "as the buffers",
              broken=_broken_ends,
              hint="hold it in a layout that a conversion leaves"),
    Invariant(name="only parameters are gathered again",
              broken=_unknown_regathers,
              hint="name a parameter of the model"),
)
"""Rows in the order in which they are checked."""
