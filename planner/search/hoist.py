"""Parameters are brought into use on the way into a block.

The search has every parameter whole or in parts where a block takes it, and
does not care whether its gradient is summed there or at the calls that read
it: that costs the same one after the other. But what is summed at the block's
entry is one of the parameter movements, which go in buckets behind what is
computed, and no collective of its own inside the block. So every parameter
that a block holds replicated, and all of whose readers want its gradient
summed (``V``), is held as its readers want it. Views of a parameter on the way
to its readers are taken of the one whose gradient is yet to be summed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import fx

from planner.ir.convert import conversion_steps
from planner.ir.layout import Layout, R, V
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.program import BlockClass, Program, value_kind
from planner.ir.values import (Value, calls_of, consumers_of, operands_of,
                               outputs_of, value_of)
from planner.rules.registry import Option

__all__ = ["Hoist", "hoist_parameters"]


def hoist_parameters(program: Program, layout: ProgramLayout) -> ProgramLayout:
    """Move the sums of parameters' gradients to the blocks' entries."""
    return Hoist(program).hoisted(layout)


class Hoist:
    """That of one program, for any layouts.

    Parameters
    ----------
    program : Program
    """

    def __init__(self, program: Program) -> None:
        bound: dict[str, dict[str, set[str]]] = {
            n: {}
            for n in program.classes
        }
        for block, node, name in program.uses():
            of_class = bound[block.block_class]
            of_class.setdefault(node.meta["label"], set()).add(name)
        self._classes = {
            name: _Uses.of(cls, bound[name])
            for name, cls in program.classes.items()
        }

    def hoisted(self, layout: ProgramLayout) -> ProgramLayout:
        """With the sums at the blocks' entries."""
        return dataclasses.replace(layout,
                                   classes={
                                       name: _hoisted(uses, name, layout)
                                       for name, uses in self._classes.items()
                                   })


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uses:
    """Who reads what in a block class.

    `parameters` are placeholders that nothing else is bound to, by label,
    with all their names; `derived` the calls that read nothing but a
    parameter, or what such calls give.
    """

    placeholders: tuple[Value, ...]
    parameters: Mapping[str, Sequence[str]]
    readers: Mapping[Value, Sequence[tuple[str, int]]]
    returned: AbstractSet[Value]
    derived: tuple[tuple[str, tuple[Value, ...]], ...]

    @staticmethod
    def of(cls: BlockClass, bound: Mapping[str, set[str]]) -> _Uses:
        return _Uses(placeholders=tuple(map(Value, cls.placeholders)),
                     parameters={
                         label: sorted(names)
                         for label, names in bound.items()
                         if {value_kind(n)
                             for n in names} == {"param"}
                     },
                     readers={
                         value: [(node.meta["label"], number)
                                 for node, number in found]
                         for value, found in consumers_of(cls.graph).items()
                     },
                     returned={value_of(node)
                               for node in cls.results},
                     derived=tuple((n.meta["label"], outputs_of(n))
                                   for n in _of_one_parameter(cls)))

    def wanted(self, calls: Mapping[str, CallLayout], *values:
               Value) -> set[Layout]:
        """The layouts that readers take some values in."""
        return {
            calls[label].input(number)
            for v in values
            for label, number in self.readers.get(v, ())
        }


def _hoisted(uses: _Uses, name: str, layout: ProgramLayout) -> ClassLayout:
    current = _summed_before_views(uses, layout.classes[name])
    hubs = dict(current.hubs)
    for value in uses.placeholders:
        label = value.label
        if label not in uses.parameters or value in uses.returned:
            continue
        wanted = uses.wanted(current.calls, value)
        target = wanted.pop() if len(wanted) == 1 else hubs[label]
        if _may_hoist(value, hubs[label], target, uses.parameters[label],
                      layout):
            hubs[label] = target
    return dataclasses.replace(current, hubs=hubs)


def _summed_before_views(uses: _Uses, layout: ClassLayout) -> ClassLayout:
    """What is computed of one parameter passes its gradient's summands on,
    where its readers give them; they are then summed at the parameter."""
    calls, hubs = dict(layout.calls), dict(layout.hubs)
    for label, values in reversed(uses.derived):
        if not (uses.returned.isdisjoint(values) and all(v.spec.requires_grad
                                                         for v in values)):
            continue
        # Of several layouts that are wanted no one is the readers'.
        wanted = uses.wanted(calls, *values)
        held = [hubs[v.label] for v in values if v.label in hubs]
        late = [
            len(wanted) == 1 and all(w[axis] == V for w in wanted)
            and all(h[axis] in (R, V) for h in held) and _is_whole(option)
            for axis, option in enumerate(calls[label].options)
        ]
        calls[label] = CallLayout(options=tuple(
            _summands(o) if is_late else o
            for o, is_late in zip(calls[label].options, late, strict=True)))
        for name in (v.label for v in values if v.label in hubs):
            hubs[name] = tuple(
                V if is_late else p
                for p, is_late in zip(hubs[name], late, strict=True))
    return dataclasses.replace(layout, calls=calls, hubs=hubs)


def _of_one_parameter(cls: BlockClass) -> list[fx.Node]:
    """Calls that read nothing but a parameter, or what such calls give."""
    known = {n for n in cls.placeholders if Value(n).bound_kind == "param"}
    found = []
    for node in calls_of(cls.graph):
        operands = operands_of(node)
        if len(operands) == 1 and operands[0].node in known:
            known.add(node)
            found.append(node)
    return found


def _is_whole(option: Option) -> bool:
    return all(p == R for p in (*option.inputs, *option.outputs))


def _summands(option: Option) -> Option:
    return dataclasses.replace(option,
                               inputs=(V, ) * len(option.inputs),
                               outputs=(V, ) * len(option.outputs))


def _may_hoist(value: Value, hub: Layout, wanted: Layout, names: Sequence[str],
               layout: ProgramLayout) -> bool:
    """Whether only the gradient moves between hub and readers, and the
    parameters can go from rest to their readers' layout directly."""
    if not value.spec.requires_grad:
        return False
    if any(h == V and w == R for h, w in zip(hub, wanted, strict=True)):
        # The summands are wanted, as over micro-batches.
        return False
    inside = conversion_steps(hub, wanted, differentiable=True)
    if not inside or any(s.forward.kind != "none" for s in inside):
        return False
    return all(
        conversion_steps(layout.at_rest[n], wanted, differentiable=True)
        is not None for n in names)
