"""What a plan is for: a program, a cluster, and what is asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from planner.candidate import Candidate
from planner.choices import known_recipes
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.cost.memory_estimate import MemoryEstimate, estimate_memory
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.limits import MemoryLimits
from planner.mesh_prices import MeshPrices
from planner.rules.registry import TensorSpec
from planner.search.bound import lower_bound_s, quick_bound_s
from planner.search.facts import Facts
from planner.search.tables import ConversionTables

__all__ = ["Problem"]

_ASIDE = 0.1
"""Of the time limit, for what is asked beside a search."""


class Problem:
    """One program, one cluster, and what is asked of its plans.

    Parameters
    ----------
    program : Program
    cluster : ClusterSpec
    constraints : Constraints, optional
    optimizer : str
        Whose state is budgeted.
    memory_limit_bytes : int, optional
        Per rank; the memory of its own device if left out.
    facts : Facts, optional
        Of the program, when they are at hand.
    expert_imbalance : float
        Tokens of the rank whose experts get most, over the mean;
        ``scaletorch.expert_load`` measures it.
    observer : callable, optional
        Called with every candidate that is priced, say to show progress.
    time_limit_s : float, optional
        After which a search ends with what it has found.
    runners_up : int
        Where the split of the devices is searched: on how many others the
        best plan is priced too, to compare.

    Attributes
    ----------
    limits : MemoryLimits
    until_s : float
        When a search ends with what it has found, of ``time.monotonic``.
    batch_cuts : dict of (int, bool) to ProgramLayout
        How the batch is cut, by micro-batches and whether that is exact,
        as `planner.pipeline.microbatch` found it.

    Raises
    ------
    ValueError
        When a constraint names a parameter or recipe that is not there.
    """

    def __init__(self,
                 program: Program,
                 cluster: ClusterSpec,
                 *,
                 constraints: Constraints | None = None,
                 optimizer: str = "adamw",
                 memory_limit_bytes: int | None = None,
                 facts: Facts | None = None,
                 expert_imbalance: float = 1.0,
                 observer: Callable[[Candidate], None] | None = None,
                 time_limit_s: float | None = None,
                 runners_up: int = 0) -> None:
        self.program = program
        self.cluster = cluster
        self.constraints = constraints or Constraints()
        self.optimizer = optimizer
        self.limits = MemoryLimits(cluster=cluster,
                                   given_bytes=memory_limit_bytes)
        self.expert_imbalance = expert_imbalance
        self.facts = facts or Facts.of(program)
        self.constraints.check([n.partition(":")[2] for n in program.params],
                               known_recipes())
        self.observer = observer
        self.time_limit_s = time_limit_s
        self.runners_up = runners_up
        self.until_s = float("inf")
        self.batch_cuts: dict[tuple[int, bool], ProgramLayout] = {}
        self._prices = MeshPrices(cluster, expert_imbalance)
        self._bounds: dict[MeshSpec, float] = {}

    def of_program(self, program: Program) -> Self:
        """The same plans for another form of the program."""
        if program is self.program:
            return self
        copied = self.copied(program=program)
        copied.until_s = self.until_s
        return copied

    def copied(self,
               *,
               program: Program | None = None,
               cluster: ClusterSpec | None = None,
               constraints: Constraints | None = None,
               memory_limit_bytes: int | None = None) -> Self:
        """The same settings but for what is given.

        Under a time limit layouts that are searched with it, beside those
        of a whole search, have a part of that.
        """
        made = type(self)(program or self.program,
                          cluster or self.cluster,
                          constraints=constraints or self.constraints,
                          optimizer=self.optimizer,
                          memory_limit_bytes=memory_limit_bytes
                          or self.limits.given_bytes,
                          facts=None if program else self.facts,
                          expert_imbalance=self.expert_imbalance,
                          observer=self.observer,
                          time_limit_s=self.time_limit_s)
        if self.time_limit_s is not None:
            made.until_s = time.monotonic() + _ASIDE * self.time_limit_s
        return made

    @property
    def memory_limit_bytes(self) -> int:
        """Of the rank whose device has least memory."""
        return self.limits.least_bytes

    def tables(self,
               mesh: MeshSpec,
               whole: MeshSpec | None = None) -> ConversionTables:
        """Prices of conversions on a mesh, shared by all its candidates.

        With `whole` they are those of a stage whose axes lie in it.
        """
        return self._prices.tables(mesh, whole)

    def bound_s(self, mesh: MeshSpec) -> float:
        """No layouts on a mesh take less time; in a hurry less closely."""
        if mesh not in self._bounds:
            bound = (lower_bound_s
                     if self.time_limit_s is None else quick_bound_s)
            self._bounds[mesh] = bound(self.facts, mesh, self.cluster)
        return self._bounds[mesh]

    def memory_of(self, layout: ProgramLayout) -> MemoryEstimate:
        """What each rank holds under layouts without stages."""
        return estimate_memory(self.program,
                               layout,
                               optimizer=self.optimizer,
                               calls=self.facts.known_calls)

    def repeated_classes(self) -> list[str]:
        """Block classes of which there are several blocks."""
        counts = self.facts.counts
        return [name for name in sorted(counts) if counts[name] > 1]

    def rank(self, candidate: Candidate) -> tuple[int, float, int, bool, str]:
        """Quicker first; of equal ones the one that a recipe names."""
        return (self.excess_bytes(candidate), float(f"{candidate.time_s:.9e}"),
                candidate.memory.total, candidate.is_free, candidate.name)

    def excess_bytes(self, candidate: Candidate) -> int:
        """By how much its fullest rank is over that rank's limit."""
        return self.limits.excess_bytes(candidate)

    def fits(self, candidate: Candidate) -> bool:
        """Whether the candidate keeps the memory limit."""
        return self.excess_bytes(candidate) == 0

    def check_mesh(self, mesh: MeshSpec) -> None:
        """Constraints that leave a parameter no layout are named."""
        self.constraints.check_mesh(mesh, self._param_specs())
        if "pp" not in mesh.names:  # stages can have blocks of their own
            self.check_alike(mesh)

    def check_alike(self, mesh: MeshSpec) -> None:
        """Constraints that leave parameters that lie alike no layout are
        named, all of them."""
        self.constraints.check_alike(
            mesh, self._param_specs(),
            [[n.partition(":")[2] for n in names]
             for names in self.facts.alike_params.values()])

    def _param_specs(self) -> dict[str, TensorSpec]:
        return {
            n.partition(":")[2]: self.program.specs[n]
            for n in self.program.params
        }
