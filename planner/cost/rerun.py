"""What of a block's forward its backward runs again.

Only what leads to a value that some derivative reads: the block's last
product, say, is not computed twice. It is how
:mod:`passes.split_backward` slices a recomputed block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.cost.calls import KnownCall
from planner.ir.values import Value

__all__ = ["Rerun", "rerun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """The part of a block class that runs twice.

    Parameters
    ----------
    calls : frozenset of str
        Labels of the calls.
    reads : frozenset of Value
        What these calls and the derivatives read. The placeholders among
        them are all that is kept from the forward.
    """

    calls: frozenset[str]
    reads: frozenset[Value]


def rerun(calls: Sequence[KnownCall]) -> Rerun:
    """What the backward of a recomputed block class runs again.

    Parameters
    ----------
    calls : sequence of KnownCall
        Of the class, in order.
    """
    again: set[str] = set()
    reads: set[Value] = set()
    for known in reversed(calls):
        keeps = known.work.saved
        if (keeps.extra_bytes or keeps.outputs
                or not reads.isdisjoint(known.outputs)):
            again.add(known.label)
            reads.update(known.operands)
        reads.update(known.operands[i] for i in keeps.inputs)
    return Rerun(calls=frozenset(again), reads=frozenset(reads))
