"""Which call keeps a batch from being cut into micro-batches.

The search finds out that some call can't be computed for a part of the
batch, and then computes everything before it for the whole. Here the parts
are followed through the program from the inputs on, to the first call that
can't go on with what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import fx

from planner.ir.layout import Placement, S
from planner.ir.program import Program, value_kind
from planner.ir.values import Value
from planner.rules.registry import Option
from planner.search.facts import CallFacts, Facts

__all__ = ["first_undivided"]

_Places = frozenset[Placement]
_Inside = Mapping[Value, _Places]


def first_undivided(facts: Facts, count: int, lowerings: Collection[str],
                    depends: Callable[[str, Value], bool]) -> fx.Node | None:
    """The first call that can't be computed for a part of the batch.

    Parameters
    ----------
    facts : Facts
    count : int
        Micro-batches.
    lowerings : collection of str
        Those that compute with a part alone.
    depends : callable
        Whether a value of a class depends on parameters; others can be
        known of the whole batch before its first part.

    Returns
    -------
    Node or None
        None where each call by itself can go on with its parts.
    """
    known = _inputs(facts.program)
    for block in facts.program.blocks:
        cls = facts.classes[block.block_class]
        inside: dict[Value, _Places] = {
            value: known[name]
            for value, name in zip(
                cls.placeholders, block.operands, strict=True) if name in known
        }
        for call in cls.calls.values():
            if not any(v in inside for v in call.operands):
                continue
            late = {
                v
                for v in (*call.operands, *call.outputs)
                if depends(block.block_class, v)
            }
            options = [
                o for o in call.options(count).options
                if (o.lowering is None or o.lowering in lowerings)
                and _takes(o, call, inside, late)
            ]
            if options:
                inside |= _given(call, options)
            elif late:
                return call.node
        known |= {
            name: inside[value]
            for value, name in zip(cls.results, block.results, strict=True)
            if value in inside
        }
    return None


def _inputs(program: Program) -> dict[str, _Places]:
    return {
        name: frozenset({S(0)})
        for name, spec in program.specs.items()
        if value_kind(name) == "input" and spec.ndim
    }


def _takes(option: Option, call: CallFacts, inside: _Inside,
           late: Collection[Value]) -> bool:
    """Whether an option goes on with parts as they are.

    What is known of the whole batch may be wanted in any way beside parts
    that are not, and so may what is computed without the batch (a state of
    zeros, a token for each sample), but for parameters themselves.
    """
    given = [(p, v) for p, v in zip(option.inputs, call.operands, strict=True)
             if v in inside]
    parts = [pair for pair in given if pair[1] in late] or given
    if not all(p in inside[v] for p, v in parts):
        return False
    whole = (p for p, v in zip(option.inputs, call.operands, strict=True)
             if v not in inside and v.bound_kind == "param")
    return not any(p.is_shard for p in whole)


def _given(call: CallFacts, options: list[Option]) -> dict[Value, _Places]:
    return {
        value: frozenset(o.outputs[number] for o in options)
        for number, value in enumerate(call.outputs)
    }
