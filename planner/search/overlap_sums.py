"""What data parallelism adds to the bound on steps in which messages overlap.

Gradients are summed over it: on their way to rest, or where the call is that
makes them. Or the call is not divided over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.ir.layout import Layout, R
from planner.ir.values import Value
from planner.rules.registry import Option
from planner.search.facts import CallFacts, ClassFacts, Facts
from planner.search.overlap_mesh import OverlapMesh

__all__ = ["OverlapSums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapSums:
    """Of gradients, over data parallelism.

    Parameters
    ----------
    facts : Facts
    mesh : OverlapMesh
    hidden : float
        What counts of a second of messages that something hides.
    """

    facts: Facts
    mesh: OverlapMesh
    hidden: float

    def summed_s(self, name: str, value: Value, use: Layout,
                 backward: float) -> float:
        """The gradient of one use, summed where the call is; or the call is
        not divided.

        Parameters
        ----------
        name : str
            Of a class.
        value : Value
            A parameter.
        use : Layout
        backward : float
            What counts of a second of messages.
        """
        if not value.spec.requires_grad:
            return 0.0
        parts = math.prod(n for p, n in zip(use, self.mesh.sizes)
                          if p.is_shard)
        message_s = self.mesh.whole_cost.collective_s(
            "all_reduce", value.spec.size_bytes / parts, self.mesh.data_axis)
        facts = self.facts.classes[name]
        return min([
            message_s * backward,
            *(self._undivided_s(facts.calls[label], number) +
              self._divided_again_s(name, facts, label)
              for label, number in facts.readers.get(value, ()))
        ])

    def _undivided_s(self, call: CallFacts, number: int) -> float:
        """What a call takes longer that data parallelism does not divide, so
        that it has one of its operands whole."""
        size, others = self.mesh.data_size, math.prod(self.mesh.sizes)
        params = sum(v.bound_kind == "param" for v in call.operands)

        def least_s(options: Sequence[Option]) -> float:
            return min((sum(
                call.times_s(
                    self.mesh.device, 1 / others /
                    (size if o.is_sharded else 1),
                    tuple(1 / others / (size if c else 1)
                          for c in call.cut_by(o)))) for o in options),
                       default=math.inf)

        every = call.options(size).options
        plain = [o for o in every if o.inputs[number] == R]
        return max(least_s(plain) - least_s(every), 0.0) / max(params, 1)

    def _divided_again_s(self, name: str, facts: ClassFacts,
                         label: str) -> float:
        """What follows a call that data parallelism does not divide: others
        that it does not divide, or a gradient is gathered over it."""
        found = 0.0
        for value in facts.calls[label].outputs:
            if value.spec.requires_grad:
                gathered_s = self.hidden * self.mesh.whole_cost.collective_s(
                    "all_gather", value.spec.size_bytes /
                    math.prod(self.mesh.sizes), self.mesh.data_axis)
                found = max(
                    found,
                    min([
                        gathered_s,
                        *(self.facts.counts[own] *
                          self._undivided_s(call, number)
                          for own, call, number in self._next(name, value))
                    ]))
        return found

    def _next(self, name: str,
              value: Value) -> Iterator[tuple[str, CallFacts, int]]:
        """Who reads a value, in its block and in others."""
        facts = self.facts.classes[name]
        for label, number in facts.readers.get(value, ()):
            yield name, facts.calls[label], number
        for edge in self.facts.value_edges:
            if edge.source == f"hub {name} {value.label}":
                for target in edge.targets:
                    yield from self._inside(target)

    def _inside(self, hub: str) -> Iterator[tuple[str, CallFacts, int]]:
        """Who reads what comes into a block."""
        if hub != "whole":
            _, name, label = hub.split(" ", 2)
            facts = self.facts.classes[name]
            for value in facts.placeholders:
                if value.label == label:
                    for reader, number in facts.readers.get(value, ()):
                        yield name, facts.calls[reader], number
