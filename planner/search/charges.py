"""What the choices of one axis cost: the factors of its problem."""

from __future__ import annotations

import numpy as np

from planner.cost.flops import op_name
from planner.cost.roofline import memory_time_s
from planner.cost.stage_time import summed_bytes
from planner.ir.layout import Layout, R
from planner.ir.program import value_kind
from planner.ir.values import Value
from planner.rules.registry import TensorSpec
from planner.search.domain import CallDomain
from planner.search.draft import AxisProblem, Draft, factor_of
from planner.search.facts import CallFacts, ClassFacts
from planner.search.fan_out import FanOut, Reader
from planner.search.inside import inside_s, unwanted_s
from planner.search.misplaced import misplaced
from planner.search.placed import PLAIN, Numbers, numbered
from planner.search.policy import RELUCTANT_S, UNDIVIDED_S
from planner.search.pressure import local_bytes
from planner.search.tables import Array, penalties

__all__ = ["add_charges"]

_MISPLACED = 10.0
"""Price of a product that a recipe does not mean, in times of its own."""


def add_charges(problem: AxisProblem, draft: Draft) -> None:
    """Add all factors; their sum is the price of the whole program."""
    for name in problem.facts.program.params:
        if problem.facts.rest_of[name] == name:
            _rest(problem, draft, name)
    for name, facts in problem.facts.classes.items():
        _class_charges(problem, draft, name, facts)
    _state_edges(problem, draft)
    _value_edges(problem, draft)


def _rest(problem: AxisProblem, draft: Draft, name: str) -> None:
    """What a parameter costs where it rests."""
    own = draft.placed[f"rest {name}"]
    table = np.zeros(len(own))
    if problem.pressure is not None:
        spec = problem.facts.program.specs[name]
        held = local_bytes(spec, problem.layout.at_rest[name], problem.axis,
                           own, problem.sizes)
        table += (problem.pressure.state_factor(spec) * held *
                  problem.facts.alike[name])
    if problem.policy.rest == "sharded" and len(own) > 1:
        table += np.where(own < len(PLAIN), UNDIVIDED_S, 0.0)
    draft.add((f"rest {name}", ), table)


def _class_charges(problem: AxisProblem, draft: Draft, name: str,
                   facts: ClassFacts) -> None:
    layout = problem.layout.classes[name]
    for value in facts.placeholders:
        _read(problem, draft, name, facts, value, layout.hubs[value.label])
    kept: set[Value] = set()
    for label, call in facts.calls.items():
        _compute(problem, draft, name, call)
        if problem.pressure is not None:
            _saved(problem, draft, name, call, kept)
        for number, value in enumerate(call.outputs):
            made = layout.calls[label].output(number)
            _made(problem, draft, name, facts, f"call {name} {label}", number,
                  value, made)


def _compute(problem: AxisProblem, draft: Draft, name: str,
             call: CallFacts) -> None:
    variable = f"call {name} {call.label}"
    domain = draft.calls[variable]
    key = (problem.device, problem.work_share, problem.compute_weight,
           problem.policy)
    found = domain.charges.get(key)
    if found is None:
        times_s = _computing_s(problem, name, call, domain)
        charged_s = times_s + _reluctance_s(problem, name, call, domain)
        found = domain.charges[key] = (float(times_s.min()),
                                       factor_of((variable, ), charged_s))
    least_s, factor = found
    draft.compute_s += least_s
    draft.take(factor)
    inside = inside_s(problem, name, call, domain)
    if inside is not None:
        draft.add((variable, ), inside)


def _computing_s(problem: AxisProblem, name: str, call: CallFacts,
                 domain: CallDomain) -> Array:
    """What all runs of a call compute for in each of its states."""
    key = (problem.device, problem.work_share, problem.compute_weight)
    if key not in domain.times_s:
        count = problem.facts.counts[name] * problem.compute_weight
        domain.times_s[key] = count * _times_s(problem, name, call, domain,
                                               _share(problem, name, call))
    return domain.times_s[key]


def _share(problem: AxisProblem, name: str, call: CallFacts) -> float:
    """What the other axes leave of its work to a rank."""
    sizes, axis = problem.sizes, problem.axis
    current = problem.layout.classes[name].calls[call.label]
    return problem.work_share * current.share(
        (*sizes[:axis], 1, *sizes[axis + 1:]))


def _reluctance_s(problem: AxisProblem, name: str, call: CallFacts,
                  domain: CallDomain) -> Array:
    """What a policy adds to the states of a call."""
    policy, counts = problem.policy, problem.facts.counts
    found = np.zeros(len(domain.legal))
    if policy.is_free:
        return found
    count = counts[name] * problem.compute_weight
    whole_s = count * sum(
        call.times_s(problem.device, _share(problem, name, call)))
    if call.work.forward_flops and _should_divide(problem, name, call):
        found += np.where(domain.is_sharded, 0.0, UNDIVIDED_S * count)
        whole_s += UNDIVIDED_S * count
    if policy.divide and policy.shard_weights and op_name(
            call.call.target) == "embedding":
        # A table is divided too, though looking it up whole is quicker.
        found += np.where(domain.inputs[0] < len(PLAIN), UNDIVIDED_S, 0.0)
    if domain.options.has_lowerings:
        found += unwanted_s(policy, domain)
    if call.work.forward_flops and counts[name] >= min(2, max(
            counts.values())):
        found += misplaced(policy, call, domain) * (
            RELUCTANT_S * counts[name] + _MISPLACED * whole_s)
    return found


def _should_divide(problem: AxisProblem, name: str, call: CallFacts) -> bool:
    """Micro-batches are parts of the batch: products of weights alone (a
    spectral norm, an adapter) are whole in each."""
    if not problem.policy.sequential:
        return problem.policy.divide
    of_batch = problem.facts.of_inputs
    return problem.policy.divide and any(
        (name, v.label) in of_batch for v in call.operands)


def _times_s(problem: AxisProblem, name: str, call: CallFacts,
             domain: CallDomain, share: float) -> Array:
    """Of one run."""
    device, part = problem.device, share / problem.size
    if not (call.work.results and device.coefficient("wave_elements", 0.0)):
        part_s, whole_s = (sum(call.times_s(device, s)) for s in (part, share))
        return np.where(domain.is_sharded, part_s, whole_s)
    current = problem.layout.classes[name].calls[call.label].options
    known: dict[object, float] = {}
    found = []
    for state in range(len(domain.legal)):
        option = domain.option(state)
        cut = option.is_sharded, call.cut_by(option)
        if cut not in known:
            options = list(current)
            options[problem.axis] = option
            known[cut] = sum(
                call.times_s(device, part if option.is_sharded else share,
                             call.made(options, problem.sizes)))
        found.append(known[cut])
    return np.array(found)


def _saved(problem: AxisProblem, draft: Draft, name: str, call: CallFacts,
           kept: set[Value]) -> None:
    """Activations that the backward of a call is the first to keep."""
    if not any(s.requires_grad for s in call.call.outputs):
        return
    assert problem.pressure is not None
    variable = f"call {name} {call.label}"
    domain = draft.calls[variable]
    current = problem.layout.classes[name].calls[call.label]
    size = np.zeros(len(domain.legal))
    keeps = call.work.saved
    pairs = [(call.operands[i], current.input(i), domain.inputs[i])
             for i in keeps.inputs]
    pairs += [(call.outputs[i], current.output(i), domain.outputs[i])
              for i in keeps.outputs]
    for value, layout, own in pairs:
        if value not in kept and value.bound_kind == "value":
            kept.add(value)
            size += local_bytes(value.spec, layout, problem.axis, own,
                                problem.sizes)
    extra = call.work.saved.extra_bytes * _share(problem, name, call)
    size += extra / np.where(domain.is_sharded, problem.size, 1)
    draft.add(
        (variable, ),
        size * problem.facts.counts[name] * problem.pressure.price_s_per_byte)


def _made(problem: AxisProblem, draft: Draft, name: str, facts: ClassFacts,
          variable: str, number: int, value: Value, layout: Layout) -> None:
    """From the call that makes a value to its hub, or to its one reader."""
    out = FanOut(problem=problem,
                 draft=draft,
                 kind="value",
                 spec=value.spec,
                 source=variable,
                 made=draft.calls[variable].outputs[number],
                 layout=layout,
                 count=problem.facts.counts[name])
    if facts.has_hub(value):
        hub = problem.layout.classes[name].hubs[value.label]
        to = f"hub {name} {value.label}"
        out.charge([Reader(to, draft.placed[to], hub)], held_elsewhere=False)
        _read(problem, draft, name, facts, value, hub)
    else:
        out.charge(_readers(problem, draft, name, facts, value),
                   held_elsewhere=False)


def _read(problem: AxisProblem, draft: Draft, name: str, facts: ClassFacts,
          value: Value, layout: Layout) -> None:
    """From a hub to the calls that read it."""
    hub = f"hub {name} {value.label}"
    kind = "param" if value.bound_kind == "param" else "value"
    out = FanOut(problem=problem,
                 draft=draft,
                 kind=kind,
                 spec=value.spec,
                 source=hub,
                 made=draft.placed[hub],
                 layout=layout,
                 count=problem.facts.counts[name])
    out.charge(_readers(problem, draft, name, facts, value),
               held_elsewhere=value in facts.results)


def _readers(problem: AxisProblem, draft: Draft, name: str, facts: ClassFacts,
             value: Value) -> list[Reader]:
    calls = problem.layout.classes[name].calls
    return [
        Reader(f"call {name} {label}",
               draft.calls[f"call {name} {label}"].inputs[number],
               calls[label].input(number))
        for label, number in facts.readers.get(value, ())
    ]


def _state_edges(problem: AxisProblem, draft: Draft) -> None:
    """Parameters, buffers and constants on their way into each block."""
    for edge, count in problem.facts.state_edges.items():
        _state_edge(problem, draft, edge.name, edge.block_class, edge.value,
                    count)


def _state_edge(problem: AxisProblem, draft: Draft, name: str,
                block_class: str, value: Value, count: int) -> None:
    source, target = f"rest {name}", f"hub {block_class} {value.label}"
    made, wanted = draft.placed[source], draft.placed[target]
    before = problem.layout.at_rest[name]
    after = problem.layout.classes[block_class].hubs[value.label]
    table = problem.tables.both_s(value.spec, problem.axis, before, after,
                                  made, wanted)
    extra = penalties(problem.policy, "rest", value.spec, made, wanted)
    if extra is not None and value_kind(name) == "param":
        table = table + extra
    if value_kind(name) == "param":
        table = table + _kept_or_again(problem, value.spec, before, after,
                                       made, wanted)
        sums_s = _sums_s(problem, value.spec, after, wanted)
        draft.add((target, ), count * sums_s)
    draft.add((source, target), table * count / problem.microbatches)


def _sums_s(problem: AxisProblem, spec: TensorSpec, layout: Layout,
            wanted: Numbers) -> Array:
    """Adding the gradient of a micro-batch to that of all before."""
    parts = problem.microbatches
    if parts == 1 or not spec.requires_grad:
        return np.zeros(len(wanted))
    held = local_bytes(spec, layout, problem.axis, wanted, problem.sizes)
    return np.array([
        memory_time_s(summed_bytes(spec.dtype, size), problem.device)
        for size in held
    ]) * ((parts - 1) / parts)


def _kept_or_again(problem: AxisProblem, spec: TensorSpec, before: Layout,
                   after: Layout, made: Numbers, wanted: Numbers) -> Array:
    """A parameter in use is kept for the backward or gathered again."""
    forced = problem.regather_axes
    if not forced and problem.pressure is None:
        return np.zeros((len(made), len(wanted)))
    again = problem.tables.forward_s(spec, problem.axis, before, after, made,
                                     wanted)
    if forced:
        others = any(before[a].is_shard for a in forced if a != problem.axis)
        own = (made >= len(PLAIN)) & (problem.axis in forced)
        return np.where((own | others)[:, None], again, 0.0)
    assert problem.pressure is not None
    rests = local_bytes(spec, before, problem.axis, made, problem.sizes)
    used = local_bytes(spec, after, problem.axis, wanted, problem.sizes)
    kept = np.where(used > rests[:, None], used, 0.0)
    return np.minimum(again, kept * problem.pressure.price_s_per_byte)


def _value_edges(problem: AxisProblem, draft: Draft) -> None:
    """What passes from block to block, from inputs and to outputs."""
    draft.place("whole", numbered([R]))
    for edge, count in problem.facts.value_edges.items():
        _value_edge(problem, draft, edge.source, edge.spec, edge.targets,
                    count)


def _value_edge(problem: AxisProblem, draft: Draft, source: str,
                spec: TensorSpec, targets: tuple[str,
                                                 ...], count: int) -> None:
    if source not in draft.placed:
        # What is like another parameter lies like it.
        source = f"rest {problem.facts.rest_of[source.partition(' ')[2]]}"
    out = FanOut(problem=problem,
                 draft=draft,
                 kind="value",
                 spec=spec,
                 source=source,
                 made=draft.placed[source],
                 layout=_current(problem, source),
                 count=count)
    out.charge([
        Reader(t,
               draft.placed[t],
               _current(problem, t),
               kind="output" if t == "whole" else "") for t in targets
    ],
               held_elsewhere=False)


def _current(problem: AxisProblem, variable: str) -> Layout:
    """The layout that a variable is about, as it is."""
    kind, _, rest = variable.partition(" ")
    if kind == "whole":
        return (R, ) * len(problem.sizes)
    if kind == "rest":
        return problem.layout.at_rest[rest]
    name, _, label = rest.partition(" ")
    return problem.layout.classes[name].hubs[label]
