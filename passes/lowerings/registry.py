"""Lowerings: calls whose local computation is more than the call itself.

A rule names a lowering in its option; the function registered under that
name computes the local outputs out of local inputs, with conversions where
ranks must talk. It sees the options of all axes at once, so that for
example a loss over a vocabulary sharded on one axis and a batch sharded on
another is one function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from passes.collectives import AxisRef
from planner.ir.errors import LayoutError
from planner.rules.registry import OpCall, Option

__all__ = [
    "Context", "lowering_for", "register_lowering", "registered_lowerings"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a lowering may look at.

    Parameters
    ----------
    call : OpCall
        The call with its global shapes.
    options : tuple of Option
        One per mesh axis.
    axes : tuple of AxisRef
        This rank's view of each axis.
    """

    call: OpCall
    options: tuple[Option, ...]
    axes: tuple[AxisRef, ...]

    def sharding(self, operand: int, dim: int) -> list[AxisRef]:
        """The axes that shard a dim of an operand, outermost first."""
        return [
            a for a, o in zip(self.axes, self.options, strict=True)
            if o.inputs[operand].is_shard and o.inputs[operand].dim == dim
        ]

    def named(self, *names: str) -> list[AxisRef]:
        """The axes whose option asks for one of these lowerings."""
        return [
            a for a, o in zip(self.axes, self.options, strict=True)
            if o.lowering in names
        ]


Lowering = Callable[..., Any]
"""``lowering(context, *args, **kwargs)`` with the call's own arguments."""

_LOWERINGS: dict[str, Lowering] = {}


def register_lowering(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a function for option lowerings.

    Raises
    ------
    ValueError
        For a name that is taken.
    """

    def add(function: Lowering) -> Lowering:
        for name in names:
            if name in _LOWERINGS:
                raise ValueError(f"lowering {name!r} is registered twice")
            _LOWERINGS[name] = function
        return function

    return add


def registered_lowerings() -> tuple[str, ...]:
    """The names of all lowerings, sorted."""
    return tuple(sorted(_LOWERINGS))


def lowering_for(call: OpCall, options: Sequence[Option]) -> Lowering | None:
    """The function for a call's options; None where the call itself runs.

    Raises
    ------
    LayoutError
        When two axes ask for lowerings that do not go together.
    """
    names = sorted({o.lowering for o in options if o.lowering})
    missing = [n for n in names if n not in _LOWERINGS]
    if missing:
        raise LayoutError(f"{call.target}: no lowering {missing[0]!r}; known "
                          f"are {', '.join(sorted(_LOWERINGS))}")
    functions = {_LOWERINGS[n] for n in names}
    if len(functions) > 1:
        raise LayoutError(f"{call.target}: the lowerings {', '.join(names)} "
                          "on different axes do not go together")
    return functions.pop() if functions else None
