"""One way to run a program, with what it costs and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.memory_estimate import MemoryEstimate
from planner.cost.price import PlanPrice
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.search.layouts import LayoutSolution
from planner.search.policy import Policy

__all__ = ["Candidate"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a program, priced.

    Parameters
    ----------
    policies : tuple of Policy
        One per axis.
    solution : LayoutSolution
    price : PlanPrice
        Of the layouts, without what policies and memory pressure add.
    memory : MemoryEstimate
    bound_s : float
        No layouts on this mesh take less time, whatever their memory.
    memory_price_s_per_byte : float
        What memory was taken to cost in the search.
    """

    policies: tuple[Policy, ...]
    solution: LayoutSolution
    price: PlanPrice
    memory: MemoryEstimate
    bound_s: float
    memory_price_s_per_byte: float = 0.0

    @property
    def layout(self) -> ProgramLayout:
        return self.solution.layout

    @property
    def mesh(self) -> MeshSpec:
        return self.solution.layout.mesh

    @property
    def gap(self) -> float:
        """How much of its time may be saved at most, from 0 to 1."""
        time_s = max(self.price.time_s, 1e-30)
        return max(0.0, (time_s - self.bound_s) / time_s)

    @property
    def is_free(self) -> bool:
        """Whether no recipe was followed."""
        return all(p.name.startswith("auto") for p in self.policies)

    @property
    def is_lighter(self) -> bool:
        """Whether memory was at a price in the search."""
        return self.memory_price_s_per_byte > 0

    @property
    def axes(self) -> dict[str, str]:
        """What each axis is used for."""
        return {
            n: p.name
            for n, p in zip(self.mesh.names, self.policies, strict=True)
        }

    @property
    def name(self) -> str:
        suffix = ", saving memory" if self.is_lighter else ""
        if self.layout.recompute:
            suffix += f", recomputing {', '.join(sorted(self.layout.recompute))}"
        return " * ".join(
            f"{policy.name}({axis}={size})" for policy, axis, size in zip(
                self.policies, self.mesh.names, self.mesh.sizes,
                strict=True)) + suffix
