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
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from torch import fx

from planner.ir.convert import conversion_steps
from planner.ir.layout import Layout, R, V
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.program import BlockClass, Program, value_kind
from planner.ir.values import (Value, calls_of, consumers_of, operands_of,
                               outputs_of, value_of)
from planner.rules.registry import Option

__all__ = ["hoist_parameters"]

_Readers = Mapping[Value, list[tuple[fx.Node, int]]]


def hoist_parameters(program: Program, layout: ProgramLayout) -> ProgramLayout:
    """Move the sums of parameters' gradients to the blocks' entries."""
    bound: dict[tuple[str, str], set[str]] = {}
    for block, node, name in program.uses():
        key = block.block_class, node.meta["label"]
        bound.setdefault(key, set()).add(name)
    classes = {}
    for name, cls in program.classes.items():
        parameters = {
            label: sorted(names)
            for (owner, label), names in bound.items()
            if owner == name and {value_kind(n)
                                  for n in names} == {"param"}
        }
        classes[name] = _hoisted(cls, layout, parameters)
    return dataclasses.replace(layout, classes=classes)


def _hoisted(cls: BlockClass, layout: ProgramLayout,
             parameters: dict[str, list[str]]) -> ClassLayout:
    readers = consumers_of(cls.graph)
    returned = {value_of(node) for node in cls.results}
    current = _summed_before_views(cls, layout.classes[cls.name], readers,
                                   returned)
    hubs = dict(current.hubs)
    for node in cls.placeholders:
        value, label = Value(node), node.meta["label"]
        if label not in parameters or value in returned:
            continue
        wanted = {
            current.calls[call.meta["label"]].input(number)
            for call, number in readers.get(value, ())
        }
        target = wanted.pop() if len(wanted) == 1 else hubs[label]
        if _may_hoist(value, hubs[label], target, parameters[label], layout):
            hubs[label] = target
    return dataclasses.replace(current, hubs=hubs)


def _summed_before_views(cls: BlockClass, layout: ClassLayout,
                         readers: _Readers,
                         returned: AbstractSet[Value]) -> ClassLayout:
    """What is computed of one parameter passes its gradient's summands on,
    where its readers give them; they are then summed at the parameter."""
    calls, hubs = dict(layout.calls), dict(layout.hubs)
    for node in reversed(_of_one_parameter(cls)):
        values, label = outputs_of(node), node.meta["label"]
        if not (returned.isdisjoint(values) and all(v.spec.requires_grad
                                                    for v in values)):
            continue
        # Of several layouts that are wanted no one is the readers'.
        wanted = {
            calls[call.meta["label"]].input(number)
            for v in values
            for call, number in readers.get(v, ())
        }
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


def _may_hoist(value: Value, hub: Layout, wanted: Layout, names: list[str],
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
