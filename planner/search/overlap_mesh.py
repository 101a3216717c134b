"""A mesh as the bound on steps in which messages overlap sees it.

Layouts are chosen over one or two axes at once. An axis of data parallelism
is left out: values and work are divided over it at best, and parameters are
whole in use, so that what moves them is known all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.cluster.axis import AxisInfo
from planner.cluster.device import DeviceKind
from planner.cost.conversion import ConversionCost
from planner.ir.layout import Layout, Placement, R
from planner.ir.layouts import CallLayout
from planner.ir.mesh import MeshSpec
from planner.rules.registry import Option
from planner.search.facts import CallFacts
from planner.search.overlap_tables import OverlapTables, number_of
from planner.search.placed import Numbers
from planner.search.policy import Policy

__all__ = ["Domain", "OverlapMesh", "Prices", "layout_numbers"]


@dataclass(kw_only=True, eq=False)
class OverlapMesh:
    """A mesh as the bound sees it, with what all graphs on it share.

    Parameters
    ----------
    mesh : MeshSpec
    links : sequence of AxisInfo
    device : DeviceKind
    """

    mesh: MeshSpec
    links: Sequence[AxisInfo]
    device: DeviceKind
    _prices: dict[tuple[bool, float, float],
                  Prices] = field(default_factory=dict)
    _domains: dict[CallFacts, Domain] = field(default_factory=dict)

    @property
    def data_axis(self) -> int:
        """That of data parallelism; -1 where there is none."""
        return self.mesh.names.index("dp") if "dp" in self.mesh.names else -1

    @property
    def data_size(self) -> int:
        return self.mesh.sizes[self.data_axis] if self.data_axis >= 0 else 1

    @functools.cached_property
    def axes(self) -> tuple[int, ...]:
        """The others."""
        return tuple(a for a in range(len(self.mesh.sizes))
                     if a != self.data_axis)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Of the others."""
        return tuple(self.mesh.sizes[a] for a in self.axes)

    @functools.cached_property
    def whole_cost(self) -> ConversionCost:
        """Over all axes."""
        return ConversionCost(self.links, self.device)

    @functools.cached_property
    def divided_cost(self) -> ConversionCost:
        """Over the others, of what data parallelism divides."""
        return self._cost(self.data_size)

    def _cost(self, divided: int) -> ConversionCost:
        return ConversionCost([self.links[a] for a in self.axes],
                              self.device,
                              divided=divided)

    def prices(self, divided: bool, forward: float, backward: float) -> Prices:
        """Of values that data parallelism divides or not, with what a second
        of messages counts."""
        key = divided, forward, backward
        if key not in self._prices:
            cost = self._cost(self.data_size if divided else 1)
            self._prices[key] = Prices(
                tables=OverlapTables(cost, forward, backward))
        return self._prices[key]

    def joined(self, own: Layout, data: Placement) -> Layout:
        """A layout over all axes."""
        if self.data_axis < 0:
            return own
        return (*own[:self.data_axis], data, *own[self.data_axis:])

    def domain(self, call: CallFacts) -> Domain:
        """The choices of a call."""
        if call not in self._domains:
            self._domains[call] = self._found(call)
        return self._domains[call]

    def _found(self, call: CallFacts) -> Domain:
        known = call.call
        whole = Option(inputs=(R, ) * len(known.inputs),
                       outputs=(R, ) * len(known.outputs))
        legal = list(self._options(call, (whole, ) * len(self.sizes)))
        return Domain(legal=legal,
                      inputs=tuple(
                          layout_numbers([[o.inputs[i] for o in own]
                                          for own in legal])
                          for i in range(len(known.inputs))),
                      outputs=tuple(
                          layout_numbers([[o.outputs[i] for o in own]
                                          for own in legal])
                          for i in range(len(known.outputs))))

    def _options(self,
                 call: CallFacts,
                 chosen: tuple[Option, ...],
                 axis: int = 0) -> Iterator[tuple[Option, ...]]:
        """All that go with each other, from some axis on."""
        if axis == len(chosen):
            yield chosen
            return
        domain = call.domain(axis, self.sizes, CallLayout(options=chosen))
        for state in range(len(domain.legal)):
            yield from self._options(
                call,
                (*chosen[:axis], domain.option(state), *chosen[axis + 1:]),
                axis + 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Domain:
    """The choices of a call."""

    legal: Sequence[tuple[Option, ...]]
    inputs: tuple[Numbers, ...]
    outputs: tuple[Numbers, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """What stands for the problem of one axis in a fan-out."""

    tables: OverlapTables
    axis: int = 0
    policy: Policy = Policy()


def layout_numbers(layouts: Sequence[Sequence[Placement]]) -> Numbers:
    """As which the graph has layouts over the chosen axes."""
    return np.array([number_of(tuple(lay)) for lay in layouts], np.intp)
