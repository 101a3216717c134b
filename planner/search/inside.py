"""What calls cost inside of their lowerings, by the option of one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.cost.lowering import (lowering_moves, lowering_time_s,
                                   moving_lowerings, unevenness)
from planner.rules.registry import Option
from planner.search.domain import CallDomain
from planner.search.draft import AxisProblem
from planner.search.facts import CallFacts
from planner.search.policy import FORBIDDEN_S, UNDIVIDED_S, Policy
from planner.search.tables import Array

__all__ = ["inside_s", "unwanted_s"]


def inside_s(problem: AxisProblem, name: str, call: CallFacts,
             domain: CallDomain) -> Array | None:
    """Seconds beside the call's own work in each state; None for none.

    The collectives of its lowering over all axes, and what uneven rows
    take longer than even ones.
    """
    current = problem.layout.classes[name].calls[call.label].options
    others = [o.lowering for o in current if o.lowering]
    if not others and not domain.options.has_lowerings:
        return None
    if moving_lowerings().isdisjoint((*others, *domain.options.lowerings)):
        return None
    own = [domain.option(s) for s in range(len(domain.legal))]
    count = problem.facts.counts[name]
    found = np.zeros(len(own))
    for state, option in enumerate(own):
        options = list(current)
        options[problem.axis] = option
        found[state] = count * (
            _moves_s(problem, call, options) +
            problem.compute_weight * _uneven_s(problem, call, options))
    return found


def _moves_s(problem: AxisProblem, call: CallFacts,
             options: Sequence[Option]) -> float:
    cost = problem.tables.cost
    return sum(
        lowering_time_s(move, cost, axis, options=options)
        for axis in range(len(options))
        for move in lowering_moves(call.call, options, problem.sizes, axis))


def _uneven_s(problem: AxisProblem, call: CallFacts,
              options: Sequence[Option]) -> float:
    more = unevenness(problem.tables.cost, options)
    if more == 1.0:
        return 0.0
    share = problem.work_share
    for option, size in zip(options, problem.sizes, strict=True):
        share /= size if option.is_sharded else 1
    made = call.made(options, problem.sizes)
    even_s, uneven_s = (sum(call.times_s(problem.device, s, made))
                        for s in (share, share * more))
    return uneven_s - even_s


def unwanted_s(policy: Policy, domain: CallDomain) -> Array:
    """A price on lowerings that are not a policy's, and on options beside
    those that are."""
    own = [domain.option(s).lowering for s in range(len(domain.legal))]
    has = np.array([lowering in policy.preferred for lowering in own])
    found = np.where(has | ~has.any(), 0.0, UNDIVIDED_S)
    known = policy.lowerings
    for state, lowering in enumerate(own):
        strange = lowering and known is not None and lowering not in known
        if strange or lowering in policy.avoided:
            found[state] += FORBIDDEN_S
    return found
