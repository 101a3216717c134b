"""Which values of a program depend on its inputs, or on its parameters."""

from __future__ import annotations

from planner.ir.program import Program, value_kind
from planner.ir.values import (Value, calls_of, operands_of, outputs_of,
                               value_of)

__all__ = ["reached_from"]


def reached_from(program: Program,
                 kind: str) -> tuple[set[tuple[str, str]], set[str]]:
    """The values that inputs, or parameters, lead to.

    Returns
    -------
    set of (str, str)
        By class and label.
    set of str
        Global names.
    """
    names = {n for n in program.specs if value_kind(n) == kind}
    found: set[tuple[str, str]] = set()
    for block in program.blocks:
        cls = program.class_of(block)
        for node, name in zip(cls.placeholders, block.operands, strict=True):
            if name in names:
                found.add((cls.name, Value(node).label))
        for node in calls_of(cls.graph):
            if any((cls.name, v.label) in found for v in operands_of(node)):
                found |= {(cls.name, v.label) for v in outputs_of(node)}
        for node, name in zip(cls.results, block.results, strict=True):
            if (cls.name, value_of(node).label) in found:
                names.add(name)
    return found, names
