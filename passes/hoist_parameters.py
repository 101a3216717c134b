"""Pass: parameters are brought into use on the way into a block.

Needs a layout of a program. Leaves every parameter that a block holds
replicated, and all of whose readers want its gradient summed (``V``), in
the readers' layout at the block's entry. The gradient's sum then is one of
the executor's parameter movements, which go in buckets, and no collective
of its own inside the block.
"""

from __future__ import annotations

import dataclasses

from planner.ir.convert import conversion_steps
from planner.ir.layout import Layout
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import BlockClass, Program, value_kind
from planner.ir.values import Value, consumers_of, value_of

__all__ = ["hoist_parameters"]


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
    current = layout.classes[cls.name]
    readers = consumers_of(cls.graph)
    returned = {value_of(node) for node in cls.results}
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


def _may_hoist(value: Value, hub: Layout, wanted: Layout, names: list[str],
               layout: ProgramLayout) -> bool:
    """Whether only the gradient moves between hub and readers, and the
    parameters can go from rest to their readers' layout directly."""
    if not value.spec.requires_grad:
        return False
    inside = conversion_steps(hub, wanted, differentiable=True)
    if not inside or any(s.forward.kind != "none" for s in inside):
        return False
    return all(
        conversion_steps(layout.at_rest[n], wanted, differentiable=True)
        is not None for n in names)
