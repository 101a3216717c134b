"""What passes into blocks and between them, alike edges counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from planner.ir.program import Program, value_kind
from planner.ir.values import Value, value_of
from planner.rules.registry import TensorSpec

__all__ = ["StateEdge", "ValueEdge", "state_edges", "value_edges"]

_STATE = ("param", "buffer", "const")


@dataclass(frozen=True, slots=True)
class StateEdge:
    """From where something rests to the blocks of a class.

    Parameters
    ----------
    name : str
        Of the representative that it lies like.
    block_class : str
    value : Value
        In that class.
    """

    name: str
    block_class: str
    value: Value


@dataclass(frozen=True, slots=True)
class ValueEdge:
    """From a value to all that take it, by the variables of a problem.

    Parameters
    ----------
    source : str
    spec : TensorSpec
    targets : tuple of str
    """

    source: str
    spec: TensorSpec
    targets: tuple[str, ...]


def state_edges(program: Program,
                rest_of: Mapping[str, str]) -> Mapping[StateEdge, int]:
    """Of parameters, buffers and constants, with how many there are."""
    return Counter(
        StateEdge(rest_of[name], block.block_class, Value(node))
        for block, node, name in program.uses() if value_kind(name) in _STATE)


def value_edges(program: Program) -> Mapping[ValueEdge, int]:
    """From block to block, from inputs and to outputs, with how many."""
    held = {n: (f"rest {n}", s) for n, s in program.specs.items()}
    readers: dict[str, dict[str, None]] = {}
    for block, node, name in program.uses():
        if value_kind(name) not in _STATE:
            target = f"hub {block.block_class} {Value(node).label}"
            readers.setdefault(name, {})[target] = None
    for block, node, name in program.makes():
        value = value_of(node)
        held[name] = (f"hub {block.block_class} {value.label}", value.spec)
    for out in (*program.outputs, *program.mutations.values()):
        if out is not None:
            readers.setdefault(out, {})["whole"] = None
    return Counter(ValueEdge(*held[n], tuple(r)) for n, r in readers.items())
