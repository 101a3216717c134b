"""The options of one call over one axis, and which of them are legal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.ir.layouts import CallLayout
from planner.rules import options
from planner.rules.registry import OpCall, Option
from planner.rules.ring import RING_LOWERINGS
from planner.search.factors import Factor
from planner.search.placed import Numbers, fits, numbered

__all__ = ["CallDomain", "CallOptions"]

Flags = npt.NDArray[np.bool_]

_FAMILIES = ("cross_entropy", "expert_")
"""How the names of lowerings begin that one function computes together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallOptions:
    """The options of one call on an axis of some size, as arrays.

    Parameters
    ----------
    options : tuple of Option
    inputs, outputs : tuple of int arrays
        For every tensor, its placement's number under each option.
    is_sharded : array of bool
    lowerings : tuple of (str or None)
    has_lowerings : bool
        Whether some option needs one.
    """

    options: tuple[Option, ...]
    inputs: tuple[Numbers, ...]
    outputs: tuple[Numbers, ...]
    is_sharded: npt.NDArray[np.bool_]
    lowerings: tuple[str | None, ...]
    has_lowerings: bool

    @staticmethod
    def of(call: OpCall, size: int) -> CallOptions:
        found = options(call, size)
        return CallOptions(options=found,
                           inputs=tuple(
                               numbered(o.inputs[i] for o in found)
                               for i in range(len(call.inputs))),
                           outputs=tuple(
                               numbered(o.outputs[i] for o in found)
                               for i in range(len(call.outputs))),
                           is_sharded=np.array([o.is_sharded for o in found]),
                           lowerings=tuple(o.lowering for o in found),
                           has_lowerings=any(o.lowering for o in found))


@dataclass(frozen=True, slots=True, eq=False)
class CallDomain:
    """The states of one call: which of its options are legal.

    Parameters
    ----------
    options : CallOptions
    legal : array of int
        Their numbers.
    inputs, outputs : tuple of int arrays
        For every tensor, its placement's number in each state.
    is_sharded : array of bool
    times_s : dict
        What each state computes for, by what that depends on.
    charges : dict
        With what a policy adds: the least of the times, and a factor.
    """

    options: CallOptions
    legal: Numbers
    inputs: tuple[Numbers, ...]
    outputs: tuple[Numbers, ...]
    is_sharded: Flags
    times_s: dict[tuple[object, ...],
                  npt.NDArray[np.float64]] = field(default_factory=dict)
    charges: dict[tuple[object, ...],
                  tuple[float, Factor | None]] = field(default_factory=dict)

    def option(self, state: int) -> Option:
        return self.options.options[self.legal[state]]

    @staticmethod
    def of(call: OpCall, found: CallOptions, axis: int, sizes: tuple[int, ...],
           current: CallLayout) -> CallDomain:
        """The options over an axis that go with those over the others."""
        legal = np.ones(len(found.options), dtype=bool)
        for i, spec in enumerate(call.inputs):
            legal &= fits(spec.shape, current.input(i), axis, sizes,
                          found.inputs[i])
        for i, spec in enumerate(call.outputs):
            legal &= fits(spec.shape, current.output(i), axis, sizes,
                          found.outputs[i])
        others = [(o, n)
                  for a, (o, n) in enumerate(zip(current.options, sizes))
                  if a != axis and (o.lowering or o.units)]
        if others:
            legal &= [
                _goes_with(o, sizes[axis], others) for o in found.options
            ]
        numbers = np.flatnonzero(legal)
        return CallDomain(options=found,
                          legal=numbers,
                          inputs=tuple(i[numbers] for i in found.inputs),
                          outputs=tuple(o[numbers] for o in found.outputs),
                          is_sharded=found.is_sharded[numbers])


def _goes_with(option: Option, size: int,
               others: Sequence[tuple[Option, int]]) -> bool:
    """Lowerings of one family compose, and units are cut by all axes."""
    families = {
        _family(o.lowering)
        for o in (option, *(o for o, _ in others)) if o.lowering
    }
    if option.lowering in RING_LOWERINGS and families == {
            option.lowering
    } and any(o.lowering for o, _ in others):
        # Keys go round one axis.
        return False
    ranks = size
    for other, ranks_there in others:
        ranks *= ranks_there if other.units else 1
    return len(families) <= 1 and option.units % ranks == 0


def _family(lowering: str | None) -> str:
    name = str(lowering)
    return next((f for f in _FAMILIES if name.startswith(f)), name)
