"""One mesh axis' layout problem as a sum of table factors.

Variables are the options of every call, the hub placement of every value
that has several readers or crosses blocks, and the placement at rest of
every parameter and input. All are per block *class*: a value that thirty
blocks pass on to the next is one factor, weighted thirty times. The
layouts over the other axes are fixed, so that every table entry is the
exact price of the full layouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.cluster.spec import DeviceKind
from planner.cost.compute import Work, time_s, work
from planner.cost.conversion import ConversionCost
from planner.cost.dtype import product_dtype
from planner.ir.convert import move
from planner.ir.layout import Layout, Placement, R, V, local_shape
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.program import BlockClass, Program, value_kind
from planner.ir.values import (Value, call_of, calls_of, consumers_of,
                               outputs_of, value_of)
from planner.rules import options
from planner.rules.registry import OpCall, Option, TensorSpec
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.policy import UNDIVIDED_S, Policy

__all__ = ["AxisProblem", "ClassFacts", "Facts"]


@dataclass(frozen=True, kw_only=True)
class ClassFacts:
    """What of one block class no layout changes."""

    block_class: BlockClass
    calls: Mapping[str, OpCall]
    works: Mapping[str, Work]
    consumers: Mapping[Value, Sequence[tuple[str, int]]]
    results: tuple[Value, ...]

    @staticmethod
    def of(block_class: BlockClass) -> ClassFacts:
        calls = {
            n.meta["label"]: call_of(n)
            for n in calls_of(block_class.graph)
        }
        readers = {
            value: tuple((n.meta["label"], i) for n, i in users)
            for value, users in consumers_of(block_class.graph).items()
        }
        return ClassFacts(block_class=block_class,
                          calls=calls,
                          works={
                              label: work(call)
                              for label, call in calls.items()
                          },
                          consumers=readers,
                          results=tuple(
                              value_of(n) for n in block_class.results))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What of a program no layout changes; shared by all axes' problems.

    `rest_of` maps parameters, buffers and constants to a representative:
    what the blocks of a class bind to one placeholder lies alike.
    """

    program: Program
    classes: Mapping[str, ClassFacts]
    counts: Mapping[str, int]
    rest_of: Mapping[str, str]
    lead: Mapping[int, int]

    @staticmethod
    def of(program: Program) -> Facts:
        classes = {n: ClassFacts.of(c) for n, c in program.classes.items()}
        return Facts(program=program,
                     classes=classes,
                     counts=Counter(b.block_class for b in program.blocks),
                     rest_of=_alike(program),
                     lead=_lead_sizes(program))


def _alike(program: Program) -> dict[str, str]:
    """Union of what shares a placeholder of a class."""
    parent = {name: name for name in program.specs}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    slots: dict[tuple[str, str], str] = {}
    for block, node, name in program.uses():
        if value_kind(name) not in ("param", "buffer", "const"):
            continue
        first = slots.setdefault((block.block_class, node.meta["label"]), name)
        a, b = sorted((root(first), root(name)))
        parent[b] = a
    return {name: root(name) for name in parent}


def _lead_sizes(program: Program) -> dict[int, int]:
    """The usual size of each dim of the inputs: batch, sequence, ..."""
    seen: dict[int, Counter[int]] = {}
    for name, spec in program.specs.items():
        if value_kind(name) == "input":
            for dim, size in enumerate(spec.shape):
                seen.setdefault(dim, Counter())[size] += 1
    return {
        dim: max(c.items(), key=lambda item: (item[1], item[0]))[0]
        for dim, c in seen.items()
    }


Filter = Callable[[str, str, Placement], bool]
"""(class, label, placement) to whether a constraint lets it pass."""


@dataclass(slots=True)
class AxisProblem:
    """Builds and reads back the factor graph of one axis.

    Parameters
    ----------
    facts : Facts
    layout : ProgramLayout
        Current layouts; those over the other axes stay.
    axis : int
    policy : Policy
    cost : ConversionCost
    device : DeviceKind
    rest_price_s_per_byte : float
        Price of a parameter byte at rest (memory pressure).
    fixed_rest : mapping of str to Placement
        Placements at rest that are given.
    regather_axes : tuple of int
        Axes whose sharded parameters are gathered again for the backward.
    constraint : callable
        Further filter on placements of parameters.
    """

    facts: Facts
    layout: ProgramLayout
    axis: int
    policy: Policy
    cost: ConversionCost
    device: DeviceKind
    rest_price_s_per_byte: float = 0.0
    fixed_rest: Mapping[str, Placement] = field(default_factory=dict)
    regather_axes: tuple[int, ...] = ()
    constraint: Callable[[str, TensorSpec, Placement], bool] | None = None
    domains: dict[str, tuple[Placement | Option,
                             ...]] = field(default_factory=dict)
    _factors: list[Factor] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.layout.mesh.sizes[self.axis]

    def build(self) -> FactorGraph:
        """The factor graph; its value is the program's whole price."""
        self.domains.clear()
        self._factors.clear()
        self._rest_variables()
        for name, facts in self.facts.classes.items():
            self._class_variables(name, facts)
        for name, facts in self.facts.classes.items():
            self._class_factors(name, facts)
        self._boundary_factors()
        return FactorGraph(
            tuple(Variable(n, len(d)) for n, d in self.domains.items()),
            tuple(self._factors))

    # Variables

    def _rest_variables(self) -> None:
        specs = self.facts.program.specs
        for name, spec in specs.items():
            kind = value_kind(name)
            if self.facts.rest_of[name] != name:
                continue
            domain: tuple[Placement, ...] = (R, )
            if kind == "input" and not spec.requires_grad:
                domain = self.policy.input_placements(spec, self.size,
                                                      self.facts.lead)
            elif kind == "param":
                domain = self._rest_domain(name, spec)
            if name in self.fixed_rest:
                domain = (self.fixed_rest[name], )
            fitting = tuple(p for p in domain
                            if self._fits(spec, self.layout.at_rest[name], p))
            self.domains[f"rest {name}"] = fitting or (R, )
            if kind == "param":
                self._rest_price(name, spec)

    def _rest_domain(self, name: str,
                     spec: TensorSpec) -> tuple[Placement, ...]:
        placements = self.policy.rest_placements(spec, self.size)
        if self.constraint is None:
            return placements
        allowed = tuple(p for p in placements
                        if self.constraint(name, spec, p))
        return allowed or placements

    def _fits(self, spec: TensorSpec, layout: Layout, own: Placement) -> bool:
        """Whether a placement divides beside the other axes' ones."""
        whole = list(layout)
        whole[self.axis] = own
        try:
            local_shape(spec.shape, whole, self.layout.mesh.sizes)
        except ValueError:
            return False
        return True

    def _rest_price(self, name: str, spec: TensorSpec) -> None:
        domain = self.domains[f"rest {name}"]
        alike = sum(r == name for r in self.facts.rest_of.values())
        local = local_shape(
            spec.shape,
            tuple(p if a != self.axis else R
                  for a, p in enumerate(self.layout.at_rest[name])),
            self.layout.mesh.sizes)
        size = float(np.prod(local)) * spec.dtype.itemsize * alike
        table = [
            size * self.rest_price_s_per_byte /
            (self.size if p.is_shard else 1) for p in domain
        ]
        if self.policy.rest == "sharded" and len(domain) > 1:
            table = [
                t + (0.0 if p.is_shard else UNDIVIDED_S)
                for t, p in zip(table, domain, strict=True)
            ]
        self._add((f"rest {name}", ), table)

    def _class_variables(self, name: str, facts: ClassFacts) -> None:
        current = self.layout.classes[name]
        found: dict[str, tuple[Option, ...]] = {}
        for label, call in facts.calls.items():
            legal = tuple(o for o in options(call, self.size)
                          if self._legal(call, current.calls[label], o))
            found[label] = legal
            self.domains[f"call {name} {label}"] = legal
        self._hub_variables(name, facts, found)

    def _legal(self, call: OpCall, current: CallLayout,
               option: Option) -> bool:
        """Whether an option goes with those of the other axes."""
        pairs = [(s, current.input(i), option.inputs[i])
                 for i, s in enumerate(call.inputs)]
        pairs += [(s, current.output(i), option.outputs[i])
                  for i, s in enumerate(call.outputs)]
        if not all(self._fits(s, lay, own) for s, lay, own in pairs):
            return False
        return option.lowering is None or _lowerings_agree(
            option,
            [o for a, o in enumerate(current.options) if a != self.axis])

    def _hub_variables(self, name: str, facts: ClassFacts,
                       found: Mapping[str, Sequence[Option]]) -> None:
        for node in facts.block_class.placeholders:
            value = Value(node)
            self._hub(name, value, facts, found, {R})
        for node in calls_of(facts.block_class.graph):
            label = node.meta["label"]
            for number, value in enumerate(outputs_of(node)):
                if not _needs_hub(facts, value):
                    continue
                made = {o.outputs[number] for o in found[label]}
                self._hub(name, value, facts, found, made | {R})

    def _hub(self, name: str, value: Value, facts: ClassFacts,
             found: Mapping[str,
                            Sequence[Option]], start: set[Placement]) -> None:
        domain = set(start)
        for label, number in facts.consumers.get(value, ()):
            domain |= {o.inputs[number] for o in found[label]}
        if not value.spec.requires_grad:
            domain = {R if p == V else p for p in domain}
        layout = self.layout.classes[name].hubs.get(value.label)
        if layout is not None:
            domain = {p for p in domain if self._fits(value.spec, layout, p)}
        if not self.policy.use_shards and _is_param(facts, value):
            domain = {p for p in domain if not p.is_shard}
        self.domains[f"hub {name} {value.label}"] = tuple(sorted(domain))

    # Factors

    def _add(self, scope: tuple[str, ...], table: object) -> None:
        self._factors.append(Factor(scope, np.asarray(table, np.float64)))

    def _class_factors(self, name: str, facts: ClassFacts) -> None:
        count = self.facts.counts[name]
        for label in facts.calls:
            self._compute(name, label, facts, count)
        for node in facts.block_class.placeholders:
            self._readers(name, Value(node), facts, count)
        for node in calls_of(facts.block_class.graph):
            for number, value in enumerate(outputs_of(node)):
                self._made(name, node.meta["label"], number, value, facts,
                           count)

    def _compute(self, name: str, label: str, facts: ClassFacts,
                 count: int) -> None:
        call, how = facts.calls[label], facts.works[label]
        current = self.layout.classes[name].calls[label]
        share = 1.0
        for a, option in enumerate(current.options):
            if a != self.axis and option.is_sharded:
                share /= self.layout.mesh.sizes[a]
        dtype = product_dtype(call)
        table = []
        for option in self.domains[f"call {name} {label}"]:
            assert isinstance(option, Option)
            own = share / (self.size if option.is_sharded else 1)
            total = sum(time_s(how, self.device, dtype, share=own))
            if (self.policy.divide and how.forward_flops
                    and not option.is_sharded):
                total += UNDIVIDED_S
            table.append(total * count)
        self._add((f"call {name} {label}", ), table)

    def _made(self, name: str, label: str, number: int, value: Value,
              facts: ClassFacts, count: int) -> None:
        """From the call that makes a value to its hub, or to its reader."""
        call_name = f"call {name} {label}"
        made = [
            o.outputs[number]  # type: ignore[union-attr]
            for o in self.domains[call_name]
        ]
        source = self.layout.classes[name].calls[label].output(number)
        readers = facts.consumers.get(value, ())
        if _needs_hub(facts, value):
            hub = f"hub {name} {value.label}"
            self._add(
                (call_name, hub),
                self._prices(
                    "value", value.spec, source, made,
                    self.layout.classes[name].hubs.get(value.label, source),
                    self.domains[hub], count))
            self._readers(name, value, facts, count)
        elif readers:
            reader, operand = readers[0]
            self._read(name, value, call_name, made, source, reader, operand,
                       count)

    def _readers(self, name: str, value: Value, facts: ClassFacts,
                 count: int) -> None:
        hub = f"hub {name} {value.label}"
        domain = self.domains[hub]
        source = self.layout.classes[name].hubs[value.label]
        seen = set()
        for reader, operand in facts.consumers.get(value, ()):
            if (reader, operand) not in seen:
                seen.add((reader, operand))
                self._read(name, value, hub, domain, source, reader, operand,
                           count)

    def _read(self, name: str, value: Value, variable: str,
              made: Sequence[object], source: Layout, reader: str,
              operand: int, count: int) -> None:
        call_name = f"call {name} {reader}"
        wanted = [
            o.inputs[operand]  # type: ignore[union-attr]
            for o in self.domains[call_name]
        ]
        target = self.layout.classes[name].calls[reader].input(operand)
        self._add((variable, call_name),
                  self._prices("value", value.spec, source, made, target,
                               wanted, count))

    def _prices(self, kind: str, spec: TensorSpec, source: Layout,
                made: Sequence[object], target: Layout,
                wanted: Sequence[object], count: int) -> np.ndarray:
        """Price of every conversion between two lists of placements."""
        known: dict[tuple[object, object], float] = {}
        table = np.empty((len(made), len(wanted)))
        for i, a in enumerate(made):
            for j, b in enumerate(wanted):
                if (a, b) not in known:
                    known[a, b] = count * self._price(
                        kind, spec, source, a, target, b)  # type: ignore
                table[i, j] = known[a, b]
        return table

    def _price(self, kind: str, spec: TensorSpec, source: Layout, a: Placement,
               target: Layout, b: Placement) -> float:
        before = (*source[:self.axis], a, *source[self.axis + 1:])
        after = (*target[:self.axis], b, *target[self.axis + 1:])
        price = self.cost.time_s(spec, before, after)
        how = move(a, b)
        if how is None:
            return float("inf")
        return price + self.policy.price_s(kind, spec, a, b, how.kind)

    def _boundary_factors(self) -> None:
        """Values that pass from block to block, to the outputs, at rest."""
        program = self.facts.program
        edges: dict[tuple[str, str, TensorSpec], set[str]] = {}
        made = self._producers()
        for block, node, name in program.uses():
            value = Value(node)
            source = made.get(name)
            if source is None:
                source = f"rest {self.facts.rest_of[name]}"
            target = f"hub {block.block_class} {value.label}"
            key = (source, target, value.spec)
            use = block.name if value_kind(name) == "param" else name
            edges.setdefault(key, set()).add(use)
        for (source, target, spec), uses in edges.items():
            self._edge(source, target, spec, len(uses))
        replicated = (R, ) * len(self.layout.mesh.sizes)
        finals = [n for n in program.outputs if n]
        finals += list(program.mutations.values())
        for name in sorted(set(finals)):
            self._final(made.get(name, f"rest {self.facts.rest_of.get(name)}"),
                        name, replicated)

    def _producers(self) -> dict[str, str]:
        """Global value to the hub variable that holds it."""
        found = {}
        for block in self.facts.program.blocks:
            facts = self.facts.classes[block.block_class]
            for value, name in zip(facts.results, block.results, strict=True):
                found[name] = f"hub {block.block_class} {value.label}"
        return found

    def _current(self, variable: str) -> Layout:
        kind, _, rest = variable.partition(" ")
        if kind == "rest":
            return self.layout.at_rest[rest]
        name, _, label = rest.partition(" ")
        return self.layout.classes[name].hubs[label]

    def _edge(self, source: str, target: str, spec: TensorSpec,
              count: int) -> None:
        is_param = source.startswith("rest param:")
        table = self._prices("rest" if is_param else "value", spec,
                             self._current(source), self.domains[source],
                             self._current(target), self.domains[target],
                             count)
        if is_param and self.regather_axes:
            table = table + self._regather(spec, source, target, count)
        self._add((source, target), table)

    def _regather(self, spec: TensorSpec, source: str, target: str,
                  count: int) -> np.ndarray:
        """The forward conversion once more, for the backward pass."""
        before, after = self._current(source), self._current(target)
        table = np.zeros(
            (len(self.domains[source]), len(self.domains[target])))
        for i, a in enumerate(self.domains[source]):
            for j, b in enumerate(self.domains[target]):
                forward_s, _ = self.cost.times_s(
                    spec,
                    (
                        *before[:self.axis],
                        a,  # type: ignore[arg-type]
                        *before[self.axis + 1:]),
                    (
                        *after[:self.axis],
                        b,  # type: ignore[arg-type]
                        *after[self.axis + 1:]))
                table[i, j] = forward_s * count
        return table

    def _final(self, variable: str, name: str, target: Layout) -> None:
        spec = _spec_of(self.facts, name)
        table = self._prices("value", spec, self._current(variable),
                             self.domains[variable], target, (R, ), 1)
        self._add((variable, ), table[:, 0])

    # Reading a solution back

    def apply(self, assignment: Mapping[str, int]) -> ProgramLayout:
        """The layouts with this axis set as the assignment says."""
        chosen = {n: self.domains[n][i] for n, i in assignment.items()}
        classes = {
            name: self._class_layout(name, facts, chosen)
            for name, facts in self.facts.classes.items()
        }
        at_rest = {
            name: self._with(layout,
                             chosen[f"rest {self.facts.rest_of[name]}"])
            for name, layout in self.layout.at_rest.items()
        }
        return ProgramLayout(mesh=self.layout.mesh,
                             classes=classes,
                             at_rest=at_rest,
                             regather=self.layout.regather)

    def _with(self, layout: Layout, own: object) -> Layout:
        assert isinstance(own, Placement)
        return (*layout[:self.axis], own, *layout[self.axis + 1:])

    def _class_layout(self, name: str, facts: ClassFacts,
                      chosen: Mapping[str, object]) -> ClassLayout:
        current = self.layout.classes[name]
        calls, hubs = {}, {}
        for label in facts.calls:
            options = list(current.calls[label].options)
            own = chosen[f"call {name} {label}"]
            assert isinstance(own, Option)
            options[self.axis] = own
            calls[label] = CallLayout(options=tuple(options))
        for node in facts.block_class.placeholders:
            value = Value(node)
            hubs[value.label] = self._with(current.hubs[value.label],
                                           chosen[f"hub {name} {value.label}"])
        for node in calls_of(facts.block_class.graph):
            for number, value in enumerate(outputs_of(node)):
                own = chosen.get(f"hub {name} {value.label}")
                if own is None:
                    own = calls[node.meta["label"]].output(number)[self.axis]
                hubs[value.label] = self._with(current.hubs[value.label], own)
        return ClassLayout(calls=calls, hubs=hubs)


def _needs_hub(facts: ClassFacts, value: Value) -> bool:
    readers = len(set(facts.consumers.get(value, ())))
    return readers > 1 or value in facts.results


def _is_param(facts: ClassFacts, value: Value) -> bool:
    return value.node.op == "placeholder" and str(
        value.node.meta.get("bound", "")).startswith("param:")


def _lowerings_agree(option: Option, others: Sequence[Option]) -> bool:
    """Lowerings of one family compose; others do not."""
    families = {_family(o.lowering) for o in (option, *others) if o.lowering}
    return len(families) <= 1


def _family(lowering: str | None) -> str:
    return "cross_entropy" if lowering and lowering.startswith(
        "cross_entropy") else str(lowering)


def _spec_of(facts: Facts, name: str) -> TensorSpec:
    if name in facts.program.specs:
        return facts.program.specs[name]
    for block in facts.program.blocks:
        if name in block.results:
            cls = facts.classes[block.block_class]
            return cls.results[block.results.index(name)].spec
    raise KeyError(name)
