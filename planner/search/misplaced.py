"""Products that a recipe means to be divided along another dim.

Asked of blocks that repeat, or of all where none does: before and after
those, as in a loss over flattened tokens, another dim may be the only good
one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from planner.ir.values import Value, operands_of
from planner.search.domain import CallDomain
from planner.search.facts import CallFacts
from planner.search.placed import PLAIN
from planner.search.policy import Policy

__all__ = ["misplaced"]

Flags = npt.NDArray[np.bool_]


def misplaced(policy: Policy, call: CallFacts, domain: CallDomain) -> Flags:
    """Which states of a product's call a recipe does not mean."""
    bad = np.zeros(len(domain.legal), dtype=bool)
    if policy.input_dim and call.call.outputs[0].ndim > 2:
        # Where the sequence is to be sharded the batch is not.
        made = domain.outputs[0]
        bad |= (made >= len(PLAIN)) & (made < len(PLAIN) + policy.input_dim)
    if policy.shard_weights:
        bad |= _weight_is_whole(call, domain)
    return bad


def _weight_is_whole(call: CallFacts, domain: CallDomain) -> Flags:
    """States that divide a product but not the parameter in it."""
    weights = [
        i for i, v in enumerate(call.operands)
        if v.spec.ndim > 1 and _comes_from_param(v)
    ]
    if not weights:
        return np.zeros(len(domain.legal), dtype=bool)
    cut = np.zeros(len(domain.legal), dtype=bool)
    for number in weights:
        cut |= domain.inputs[number] >= len(PLAIN)
    return domain.is_sharded & ~cut


def _comes_from_param(value: Value) -> bool:
    """A parameter, also cast or transposed."""
    while value.node.op == "call_function":
        operands = operands_of(value.node)
        if len(operands) != 1:
            return False
        value = operands[0]
    return value.bound_kind == "param"
