"""The choices of one axis: options of calls, hubs, and layouts at rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from planner.ir.errors import InfeasiblePlan
from planner.ir.layout import Placement, R, V
from planner.ir.program import source_of, value_kind
from planner.ir.values import Value
from planner.rules.registry import TensorSpec
from planner.search.draft import AxisProblem, Draft
from planner.search.facts import ClassFacts
from planner.search.placed import PLAIN, Numbers, numbered, placement_of

__all__ = ["add_variables"]

_VARYING, = numbered([V]).tolist()


def add_variables(problem: AxisProblem, draft: Draft) -> None:
    """Declare all variables of a problem, in program order."""
    for name, spec in problem.facts.program.specs.items():
        if problem.facts.rest_of[name] == name:
            draft.place(f"rest {name}", _rest(problem, name, spec))
    for name, facts in problem.facts.classes.items():
        _class_variables(problem, draft, name, facts)


def _rest(problem: AxisProblem, name: str, spec: TensorSpec) -> Numbers:
    kind = value_kind(name)
    domain: tuple[Placement, ...] = (R, )
    if kind == "input" and not spec.requires_grad:
        domain = problem.policy.input_placements(spec, problem.size,
                                                 problem.facts.lead)
    elif kind == "param":
        domain = problem.policy.rest_placements(spec, problem.size)
    if name in problem.fixed_rest:
        domain = (problem.fixed_rest[name], )
    domain = _fitting(problem, name, spec, domain)
    if kind == "param" and problem.constraint is not None:
        domain = _constrained(problem, name, spec, domain)
    return numbered(domain or (R, ))


def _fitting(problem: AxisProblem, name: str, spec: TensorSpec,
             domain: Sequence[Placement]) -> tuple[Placement, ...]:
    fits = problem.fits(spec, problem.layout.at_rest[name], numbered(domain))
    return tuple(itertools.compress(domain, fits))


def _constrained(problem: AxisProblem, name: str, spec: TensorSpec,
                 domain: tuple[Placement, ...]) -> tuple[Placement, ...]:
    """What the constraints leave; a pin also beats the policy."""
    assert problem.constraint is not None
    allowed = tuple(p for p in domain if problem.constraint(name, spec, p))
    if allowed:
        return allowed
    every = _fitting(problem, name, spec,
                     (R, *(Placement("S", d) for d in range(spec.ndim))))
    found = tuple(p for p in every if problem.constraint(name, spec, p))
    if found:
        return found
    axis = problem.layout.mesh.names[problem.axis]
    raise InfeasiblePlan(
        f"the constraints leave {name.partition(':')[2]} of shape "
        f"{spec.shape} no layout over {axis}={problem.size}: it can lie as "
        f"{', '.join(map(str, every))}, as those of blocks that are alike do; "
        "pin one of these or drop a constraint on them",
        variables=(name, ))


def _class_variables(problem: AxisProblem, draft: Draft, name: str,
                     facts: ClassFacts) -> None:
    current = problem.layout.classes[name]
    for label, call in facts.calls.items():
        domain = call.domain(problem.axis, problem.sizes, current.calls[label])
        assert len(domain.legal), f"{name}: {label} at " + str(
            source_of(call.outputs[0].node))
        draft.call(f"call {name} {label}", domain)
    for value in facts.placeholders:
        _hub(problem, draft, name, facts, value, (0, ))
    for label, call in facts.calls.items():
        for number, value in enumerate(call.outputs):
            if facts.has_hub(value):
                made = draft.calls[f"call {name} {label}"].outputs[number]
                _hub(problem, draft, name, facts, value, (0, *made))


def _hub(problem: AxisProblem, draft: Draft, name: str, facts: ClassFacts,
         value: Value, start: Iterable[int]) -> None:
    domain = set(map(int, start))
    for label, number in facts.readers.get(value, ()):
        domain.update(
            draft.calls[f"call {name} {label}"].inputs[number].tolist())
    if not value.spec.requires_grad:
        domain = {0 if n == 1 else n for n in domain}
    hubs = problem.layout.classes[name].hubs
    if not problem.policy.use_shards and value.bound_kind == "param":
        # A shard is gathered, with others in a bucket: padded with zeros it
        # would have to be summed by itself, wherever it is read.
        domain = {n for n in domain if placement_of(n).is_replicated}
    if (problem.policy.shard_weights and value.bound_kind == "value"
            and value.spec.ndim > 1):
        # Blocks hand each other sums, not summands: what is added to these
        # in every block would be rounded on each rank by itself.
        domain = {n for n in domain if not placement_of(n).is_partial}
        if (name, value.label) in problem.facts.handed_on:
            # Gradients, too; they are summed while weights' are computed.
            domain.discard(_VARYING)
    # Shards first: of two that cost the same, values stay divided.
    numbers = np.array(sorted(domain, key=lambda n: (n < len(PLAIN), n)),
                       np.intp)
    draft.place(f"hub {name} {value.label}",
                numbers[problem.fits(value.spec, hubs[value.label], numbers)])
