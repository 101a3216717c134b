"""Checks all options of one call against the call run whole."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from planner.ir.layout import local_shape
from planner.rules import OpCall, Option, options
from planner.rules.numeric import call_of, mismatch
from tests.test_planner.test_rules.cases.case import Case
from tests.test_planner.test_rules.cases.simulators import SIMULATORS

__all__ = ["check_options", "check_pairs", "options_of"]


def options_of(op: Any,
               *args: Any,
               size: int = 2,
               **kwargs: Any) -> tuple[Option, ...]:
    """The options of a real call."""
    return options(call_of(op, args, kwargs)[0], size)


def check_options(op: Any,
                  args: Sequence[Any],
                  kwargs: Mapping[str, Any] | None = None,
                  *,
                  size: int = 2,
                  values: bool = True,
                  tolerance: float = 1e-9) -> int:
    """How many options there are beside the two that every call has.

    Raises
    ------
    AssertionError
        When one of them is wrong.
    """
    call, tensors = call_of(op, args, kwargs or {})
    found = options(call, size)
    for option in found:
        text = mismatch(call,
                        tensors, (option, ), (size, ),
                        simulators=SIMULATORS,
                        values=values,
                        tolerance=tolerance)
        if text:
            raise AssertionError(f"{call} over {size}: {option}: {text}")
    return len(found) - 1 - any(s.requires_grad for s in call.outputs)


def check_pairs(case: Case, count: int, chooser: random.Random) -> int:
    """Check some pairs of options on a mesh of two axes; how many.

    Raises
    ------
    AssertionError
        When a pair does not compose.
    """
    call, tensors = call_of(case.op, case.args, case.kwargs)
    found = [o for o in options(call, 2) if o.lowering is None]
    pairs = [p for p in itertools.product(found, found) if _fit(call, p)]
    for pair in chooser.sample(pairs, min(count, len(pairs))):
        text = mismatch(call,
                        tensors,
                        pair, (2, 2),
                        values=case.values,
                        tolerance=case.tolerance)
        if text:
            raise AssertionError(f"{call}: {pair[0]} with {pair[1]}: {text}")
    return min(count, len(pairs))


def _fit(call: OpCall, pair: Sequence[Option]) -> bool:
    """Whether every tensor divides over both axes."""
    if any(o.units % 4 for o in pair):
        return False
    specs = call.inputs + call.outputs
    layouts = zip(*(o.inputs + o.outputs for o in pair), strict=True)
    try:
        for spec, layout in zip(specs, layouts, strict=True):
            local_shape(spec.shape, layout, (2, 2))
    except ValueError:
        return False
    return True
