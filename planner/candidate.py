"""One way to run a program, with what it costs and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cluster.device import DeviceKind
from planner.cost.memory_estimate import MemoryEstimate
from planner.cost.plan_price import PlanPrice
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh
from planner.ir.shares import shares_text
from planner.search.layouts import LayoutSolution
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.joint.score import Score
    from planner.pipeline.price import PipelinePrice

__all__ = ["Candidate", "RankShare", "Searched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search went through.

    Parameters
    ----------
    visited : int
        Candidates that were priced.
    pruned : int
        Combinations that were left out, since their bound shows that they
        can't beat what was found.
    seconds : float
    bound_s : float
        No combination takes less, whether visited or pruned; inf where
        nothing fits.
    bound_of : str
        What is meant by that, in words.
    scored : tuple of Score
        Splits of the devices that were looked at, priced or not, by what
        they take at least.
    uncut : str
        Why the batch can't be cut, so that no combination has stages or
        several micro-batches; empty if it can, or if there are no
        combinations to search.
    """

    visited: int = 0
    pruned: int = 0
    seconds: float = 0.0
    bound_s: float = float("inf")
    bound_of: str = ""
    scored: tuple[Score, ...] = ()
    uncut: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankShare:
    """What ranks with one share of the batch take.

    Parameters
    ----------
    device : DeviceKind
    shares : tuple of int
        Of the batch, over each axis that has some.
    part : float
        What that is of the whole.
    price : PlanPrice
    memory : MemoryEstimate
    """

    device: DeviceKind
    shares: tuple[int, ...]
    part: float
    price: PlanPrice
    memory: MemoryEstimate


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
        Where `overlaps`, no combination that was searched does.
    memory_price_s_per_byte : float
        What memory was taken to cost in the search.
    pipeline : PipelineSpec, optional
        Stages over one axis. The price then is the work of all stages,
        shared evenly by their ranks, and the policies and layouts are over
        the other axes.
    whole_mesh : MeshSpec, optional
        With the pipeline's axis.
    step : PipelinePrice, optional
        The simulated step of the pipeline.
    optimizer_s : float
        Of the optimizer's step.
    shared : tuple of RankShare
        What each place along an axis of unequal shares takes. The price
        then is that of the slowest, the memory that of the fullest.
    overlaps : bool
        Whether the bound is of `run_s`; it is of `summed_s` else.
    """

    policies: tuple[Policy, ...]
    solution: LayoutSolution
    price: PlanPrice
    memory: MemoryEstimate
    bound_s: float
    memory_price_s_per_byte: float = 0.0
    pipeline: PipelineSpec | None = None
    whole_mesh: MeshSpec | None = None
    step: PipelinePrice | None = None
    optimizer_s: float = 0.0
    shared: tuple[RankShare, ...] = ()
    overlaps: bool = False

    @property
    def time_s(self) -> float:
        """Of a step, the optimizer's included."""
        return self.run_s + self.optimizer_s

    @property
    def run_s(self) -> float:
        """Of forward and backward, with what overlaps."""
        return self.price.step_s if self.step is None else self.step.step_s

    @property
    def summed_s(self) -> float:
        """What layouts are searched by: compute and messages one after the
        other, of a pipeline as simulated, without the optimizer."""
        return self.price.time_s if self.step is None else self.step.step_s

    @property
    def bounded_s(self) -> float:
        """What the bound is of."""
        return self.run_s if self.overlaps else self.summed_s

    @property
    def rank_memory(self) -> tuple[MemoryEstimate, ...]:
        """Of each rank of the pipeline, or with a share of its own."""
        if self.step is not None:
            return tuple(self.step.memory)
        return tuple(s.memory for s in self.shared) or (self.memory, )

    @property
    def layout(self) -> ProgramLayout:
        return self.solution.layout

    @property
    def mesh(self) -> MeshSpec:
        return self.whole_mesh or self.solution.layout.mesh

    @property
    def gap(self) -> float:
        """How much of `bounded_s` may be saved at most, from 0 to 1."""
        whole_s = max(self.bounded_s, 1e-30)
        return max(0.0, (whole_s - self.bound_s) / whole_s)

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
        if self.pipeline is None:
            return {
                n: p.name
                for n, p in zip(self.mesh.names, self.policies, strict=True)
            }
        names = inner_mesh(self.mesh, self.pipeline.axis).names
        return {
            self.pipeline.axis: "pipeline",
            **{
                n: p.name
                for n, p in zip(names, self.policies, strict=True)
            }
        }

    @property
    def name(self) -> str:
        suffix = ", saving memory" if self.is_lighter else ""
        if self.layout.recompute:
            suffix += f", recomputing {', '.join(sorted(self.layout.recompute))}"
        for axis, shares in self.layout.shares.items():
            suffix += f", shares {shares_text(shares)} over {axis}"
        parts = [
            f"{use}({axis}={size})" for (axis, use), size in zip(
                self._uses().items(), self._sizes(), strict=True)
        ]
        return " * ".join(parts) + suffix

    def _uses(self) -> dict[str, str]:
        """What each axis does, of the pipeline with its numbers."""
        uses = dict(self.axes)
        if self.pipeline is not None:
            spec = self.pipeline
            chunks = f" x {spec.chunks}" if spec.chunks > 1 else ""
            uses[spec.axis] = (f"{spec.label}{chunks}, "
                               f"{spec.microbatches} micro-batches ")
        return uses

    def _sizes(self) -> list[int]:
        known = dict(zip(self.mesh.names, self.mesh.sizes, strict=True))
        return [known.get(axis, 1) for axis in self._uses()]
