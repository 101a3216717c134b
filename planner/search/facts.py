"""What of a program no layout changes, shared by all its layout problems."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.cluster.spec import DeviceKind
from planner.cost.calls import KnownCall, KnownCalls
from planner.ir.layouts import CallLayout
from planner.ir.program import BlockClass, Program, value_kind
from planner.ir.reached import reached_from
from planner.ir.values import Value, calls_of, value_of
from planner.search.domain import CallDomain, CallOptions
from planner.search.edges import StateEdge, ValueEdge, state_edges, value_edges
from planner.search.hoist import Hoist

__all__ = ["CallFacts", "ClassFacts", "Facts"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CallFacts(KnownCall):
    """One call of a block class, with its options by axis size."""

    _options: dict[int, CallOptions] = field(default_factory=dict)
    _domains: dict[tuple[object, ...],
                   CallDomain] = field(default_factory=dict)

    def options(self, size: int) -> CallOptions:
        """Its options on an axis of `size` ranks."""
        if size not in self._options:
            self._options[size] = CallOptions.of(self.call, size)
        return self._options[size]

    def domain(self, axis: int, sizes: tuple[int, ...],
               current: CallLayout) -> CallDomain:
        """Those over one axis that go with what is chosen over the others,
        found once.

        Parameters
        ----------
        axis : int
        sizes : tuple of int
            Of all axes.
        current : CallLayout
            What it says of `axis` does not count.
        """
        chosen = current.options
        key = (axis, sizes, chosen[:axis], chosen[axis + 1:])
        found = self._domains.get(key)
        if found is None:
            found = self._domains[key] = CallDomain.of(
                self.call, self.options(sizes[axis]), axis, sizes, current)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassFacts:
    """One block class: its calls, and who reads which value."""

    block_class: BlockClass
    calls: Mapping[str, CallFacts]
    placeholders: tuple[Value, ...]
    readers: Mapping[Value, tuple[tuple[str, int], ...]]
    results: tuple[Value, ...]

    @staticmethod
    def of(block_class: BlockClass) -> ClassFacts:
        calls: dict[str, CallFacts] = {}
        readers: dict[Value, dict[tuple[str, int], None]] = {}
        for node in calls_of(block_class.graph):
            label = node.meta["label"]
            calls[label] = CallFacts.of(node)
            for number, value in enumerate(calls[label].operands):
                readers.setdefault(value, {})[label, number] = None
        return ClassFacts(
            block_class=block_class,
            calls=calls,
            placeholders=tuple(map(Value, block_class.placeholders)),
            readers={
                v: tuple(r)
                for v, r in readers.items()
            },
            results=tuple(value_of(n) for n in block_class.results))

    def has_hub(self, value: Value) -> bool:
        """Whether the layout of a value is a choice of its own."""
        return value.node.op == "placeholder" or value in self._shared

    @functools.cached_property
    def _shared(self) -> frozenset[Value]:
        """What leaves the block or has several readers."""
        often = (v for v, readers in self.readers.items() if len(readers) > 1)
        return frozenset((*self.results, *often))


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """One program.

    Parameters
    ----------
    program : Program
    classes : mapping of str to ClassFacts
    counts : mapping of str to int
        Blocks of each class.
    rest_of : mapping of str to str
        Parameters, buffers, constants and inputs to a representative: what
        the blocks of a class bind to one placeholder lies alike.
    alike : mapping of str to int
        How many each representative stands for.
    lead : mapping of int to int
        The usual size of each dim of the inputs: batch, sequence, ...
    """

    program: Program
    classes: Mapping[str, ClassFacts]
    counts: Mapping[str, int]
    rest_of: Mapping[str, str]
    alike: Mapping[str, int]
    lead: Mapping[int, int]

    @property
    def known_calls(self) -> KnownCalls:
        """All calls, for what prices layouts on its own."""
        return {n: tuple(c.calls.values()) for n, c in self.classes.items()}

    def computing_s(self, device: DeviceKind, share: float) -> float:
        """Of all calls, each of which does so much of its work."""
        return sum(self.counts[name] * sum(c.times_s(device, share))
                   for name, calls in self.known_calls.items() for c in calls)

    @functools.cached_property
    def state_edges(self) -> Mapping[StateEdge, int]:
        """Parameters, buffers and constants on their way into blocks."""
        return state_edges(self.program, self.rest_of)

    @functools.cached_property
    def value_edges(self) -> Mapping[ValueEdge, int]:
        """What passes between blocks, from inputs and to outputs."""
        return value_edges(self.program)

    @functools.cached_property
    def hoist(self) -> Hoist:
        """Who reads the parameters of each class."""
        return Hoist(self.program)

    @functools.cached_property
    def trained_in(self) -> Mapping[str, Sequence[str]]:
        """By class, placeholders that are a parameter with a gradient in any
        of its blocks."""
        found: dict[str, dict[str, None]] = {n: {} for n in self.classes}
        for block, node, name in self.program.uses():
            if value_kind(name) == "param" and node.meta["spec"].requires_grad:
                found[block.block_class][node.meta["label"]] = None
        return {n: tuple(labels) for n, labels in found.items()}

    @functools.cached_property
    def of_inputs(self) -> set[tuple[str, str]]:
        """By class and label, the values that depend on inputs."""
        return reached_from(self.program, "input")[0]

    @functools.cached_property
    def handed_on(self) -> set[tuple[str, str]]:
        """By class and label, what blocks hand to one other block each."""
        uses, makes = list(self.program.uses()), list(self.program.makes())
        readers = Counter(name for _, _, name in uses)
        once = {name for _, _, name in makes if readers[name] == 1}
        names: dict[tuple[str, str], list[str]] = {}
        for block, node, name in (*uses, *makes):
            hub = block.block_class, value_of(node).label
            names.setdefault(hub, []).append(name)
        return {hub for hub, own in names.items() if once.issuperset(own)}

    @functools.cached_property
    def alike_params(self) -> Mapping[str, tuple[str, ...]]:
        """Each representative to all parameters that it stands for."""
        found: dict[str, list[str]] = {}
        for name, own in self.rest_of.items():
            if value_kind(name) == "param":
                found.setdefault(own, []).append(name)
        return {own: tuple(names) for own, names in found.items()}

    @property
    def batch_rows(self) -> int:
        """Rows of the batch: the usual first dim of the inputs."""
        return self.lead.get(0, 1)

    @staticmethod
    def of(program: Program) -> Facts:
        rest_of = _alike(program)
        return Facts(program=program,
                     classes={
                         n: ClassFacts.of(c)
                         for n, c in program.classes.items()
                     },
                     counts=Counter(b.block_class for b in program.blocks),
                     rest_of=rest_of,
                     alike=Counter(rest_of.values()),
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
    seen: dict[int, Counter[int]] = {}
    for name, spec in program.specs.items():
        if value_kind(name) == "input":
            for dim, size in enumerate(spec.shape):
                seen.setdefault(dim, Counter())[size] += 1
    return {
        dim: max(c.items(), key=lambda item: (item[1], item[0]))[0]
        for dim, c in seen.items()
    }
