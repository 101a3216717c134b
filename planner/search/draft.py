"""What is asked of one mesh axis, and the factor graph on its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from planner.cluster.spec import DeviceKind
from planner.ir.layout import Layout, Placement
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.rules.registry import TensorSpec
from planner.search.domain import CallDomain
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.facts import Facts
from planner.search.placed import Numbers, fits
from planner.search.policy import Policy
from planner.search.pressure import MemoryPressure
from planner.search.tables import ConversionTables

__all__ = ["AxisProblem", "Draft", "FactorDraft", "RestFilter", "factor_of"]

RestFilter = Callable[[str, TensorSpec, Placement], bool]
"""(parameter, spec, placement) to whether it may rest so."""


@dataclass(frozen=True, kw_only=True)
class AxisProblem:
    """What is asked of one axis.

    Parameters
    ----------
    facts : Facts
    layout : ProgramLayout
        Current layouts; those over the other axes stay.
    axis : int
    policy : Policy
    tables : ConversionTables
        Of the mesh.
    device : DeviceKind
    fixed_rest : mapping of str to Placement
        Placements at rest that are given.
    regather_axes : tuple of int
        Axes whose sharded parameters are gathered again for the backward.
    constraint : callable, optional
        Which placements a parameter may have at rest.
    pressure : MemoryPressure, optional
        What memory costs; nothing if left out.
    compute_weight : float
        What compute counts, less than 1 in problems for a bound.
    work_share : float
        Part of the work that is left by axes the layout does not know of.
    until_s : float
        When to stop, by the monotonic clock.
    tolerance : float
        By what part of its compute the layouts may take longer than the
        best, where finding these takes longer; 0 for the best.
    """

    facts: Facts
    layout: ProgramLayout
    axis: int
    policy: Policy
    tables: ConversionTables
    device: DeviceKind
    fixed_rest: Mapping[str, Placement] = field(default_factory=dict)
    regather_axes: tuple[int, ...] = ()
    constraint: RestFilter | None = None
    pressure: MemoryPressure | None = None
    compute_weight: float = 1.0
    work_share: float = 1.0
    until_s: float = float("inf")
    tolerance: float = 0.0

    @property
    def microbatches(self) -> int:
        """Parts of a step that share what is done once for all of them."""
        mesh = self.layout.mesh
        return mesh.size(MICROBATCH) if MICROBATCH in mesh.names else 1

    @property
    def size(self) -> int:
        return self.layout.mesh.sizes[self.axis]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.layout.mesh.sizes

    def fits(self, spec: TensorSpec, layout: Layout,
             numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Which placements divide beside the other axes'."""
        return fits(spec.shape, layout, self.axis, self.sizes, numbers)


class _Domain(Protocol):
    """The states of one call, over one axis or several at once."""

    @property
    def legal(self) -> Sized:
        ...

    @property
    def inputs(self) -> tuple[Numbers, ...]:
        ...

    @property
    def outputs(self) -> tuple[Numbers, ...]:
        ...


_D = TypeVar("_D", bound=_Domain)


@dataclass(slots=True)
class FactorDraft(Generic[_D]):
    """A factor graph on its way, and what the states stand for.

    `compute_s` is what all calls take at least.
    """

    placed: dict[str, Numbers] = field(default_factory=dict)
    calls: dict[str, _D] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    factors: list[Factor] = field(default_factory=list)
    compute_s: float = 0.0

    def place(self, name: str, numbers: Numbers) -> None:
        """A variable whose states are placements."""
        self.placed[name] = numbers
        self.sizes[name] = len(numbers)

    def call(self, name: str, domain: _D) -> None:
        """A variable whose states are the options of a call."""
        self.calls[name] = domain
        self.sizes[name] = len(domain.legal)

    def add(self, scope: tuple[str, ...], table: object) -> None:
        """A factor; one that is nothing everywhere is left out."""
        self.take(factor_of(scope, table))

    def take(self, factor: Factor | None) -> None:
        """One that was made before."""
        if factor is not None:
            self.factors.append(factor)

    def graph(self) -> FactorGraph:
        return FactorGraph(
            tuple(Variable(n, s) for n, s in self.sizes.items()),
            tuple(self.factors))


Draft = FactorDraft[CallDomain]
"""Of one axis."""


def factor_of(scope: tuple[str, ...], table: object) -> Factor | None:
    """A factor; None for one that is nothing everywhere."""
    array = np.asarray(table, np.float64)
    return Factor(scope, array) if array.any() else None
