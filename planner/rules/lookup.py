"""Where the options of a call come from, in the order of resort."""

from __future__ import annotations

from collections.abc import Sequence

from planner.rules import registry
from planner.rules.dtensor import dtensor_options
from planner.rules.registry import OpCall, Option, Rule

__all__ = ["NEXT_RESORTS", "options"]

NEXT_RESORTS: tuple[Rule, ...] = (dtensor_options, )
"""What is asked for operators without an own rule."""


def options(call: OpCall,
            size: int,
            *,
            fallback: Sequence[Rule] = NEXT_RESORTS) -> tuple[Option, ...]:
    """All options of a call on an axis of `size` ranks, without repeats.

    An own rule counts first; then what DTensor knows; what neither knows
    every rank computes whole, which are the options that come first in
    any case.

    Parameters
    ----------
    call : OpCall
    size : int
        Ranks along the axis.
    fallback : sequence of rules
        For operators without a rule; the first that returns something is
        taken.

    Examples
    --------
    >>> import torch
    >>> from planner.rules.registry import Arg, TensorSpec
    >>> spec = TensorSpec(shape=(4, 6), dtype=torch.float32)
    >>> call = OpCall(target=torch.ops.aten.relu.default, args=(Arg(0), ),
    ...               kwargs={}, inputs=(spec, ), outputs=(spec, ))
    >>> [str(o) for o in options(call, 4)]
    ['R->R', 'S(0)->S(0)']
    """
    return registry.options(call, size, fallback=fallback)
