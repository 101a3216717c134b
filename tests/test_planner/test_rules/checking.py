"""Checks all options of one call against the call run whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.rules import Option, options
from planner.rules.numeric import call_of, mismatch
from tests.test_planner.test_rules.cases.simulators import SIMULATORS

__all__ = ["check_options", "options_of"]


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
                        tensors,
                        option,
                        size,
                        simulators=SIMULATORS,
                        values=values,
                        tolerance=tolerance)
        if text:
            raise AssertionError(f"{call} over {size}: {option}: {text}")
    return len(found) - 1 - any(s.requires_grad for s in call.outputs)
