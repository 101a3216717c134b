"""Candidates over meshes: given ones, or all that a number of ranks allows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from planner.candidate import Candidate, Searched
from planner.choices import free_policies, recipe_policies
from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.joint.search import JointFound, joint_candidates
from planner.joint.space import AXES
from planner.lighter import lighter
from planner.overlapping import overlapping_candidates
from planner.pipeline.candidate import pipeline_candidates
from planner.search.layouts import replicated_layout
from planner.search.overlap import overlapped
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.joint.score import Score
    from planner.planning import Planning

__all__ = ["candidates_over"]

_CLOSE = 0.005
"""A gap to sums of compute and messages that is small enough."""

_ALL_LAYOUTS = "all layouts, whatever memory they take"
_COMBINATIONS = "all combinations that fit in memory, laid out axis by axis"

_FEW = 4
"""Meshes: all that 8 devices have."""


def candidates_over(
        planning: Planning,
        meshes: Sequence[MeshSpec],
        until_s: float,
        *,
        staged: bool | None = None) -> tuple[list[Candidate], Searched]:
    """All candidates over some meshes, best first, and what is proven.

    Parameters
    ----------
    planning : Planning
    meshes : sequence of MeshSpec
        Where there are several, the split of the ranks is open: these are
        looked at, and all others that the joint search knows.
    until_s : float
        When to stop, by the monotonic clock.
    staged : bool, optional
        Whether an open split has stages, or several micro-batches; both are
        looked at if left out.

    Raises
    ------
    InfeasiblePlan
        When constraints leave some parameter no layout on any mesh.
    """
    is_open = len(meshes) > 1
    planning.constraints.check_axes({n
                                     for m in meshes
                                     for n in m.names}
                                    | set(AXES if is_open else ()))
    search = _Search(planning, until_s, staged)
    allowed = [m for m in meshes if planning.constraints.allows_mesh(m)]
    if is_open:
        search.split(allowed, meshes[0].world_size)
    elif allowed:
        search.given(allowed[0])
    return search.finished()


class _Search:
    """What was found so far."""

    def __init__(self, planning: Planning, until_s: float,
                 staged: bool | None) -> None:
        self.planning, self.until_s = planning, until_s
        self.staged = staged
        self.start_s = time.monotonic()
        self.visited_before = planning.visited
        self.found: list[Candidate] = []
        self.errors: list[InfeasiblePlan] = []
        self.bound_s, self.pruned, self.uncut = float("inf"), 0, ""
        self.overlaps, self.is_again = False, False
        self.overlapped_s, self.overlapped_of = 0.0, ""
        self.combined_s = 0.0
        self.bound_of = ""
        self.scored: list[Score] = []
        self.done: set[MeshSpec] = set()

    @property
    def best(self) -> Candidate | None:
        """Of what fits."""
        fitting = filter(self.planning.fits, self.found)
        return min(fitting, default=None, key=self.planning.rank)

    def least_s(self, of: Callable[[Candidate], float]) -> float:
        """The least of what fits."""
        fitting = filter(self.planning.fits, self.found)
        return min(map(of, fitting), default=float("inf"))

    def _is_late(self) -> bool:
        return time.monotonic() > self.until_s

    def given(self, mesh: MeshSpec) -> None:
        """One mesh, all of whose candidates are priced."""
        planning = self.planning
        with self._noting():
            planning.check_mesh(mesh)
            if "pp" in mesh.names:
                self._staged(mesh)
                return
            self.found += _without_stages(planning, mesh, self._is_late)
            self.bound_s = planning.bound_s(mesh)
            self.bound_of = _ALL_LAYOUTS
            self._overlapping(mesh)
            self._recompute()
            self._unstaged(mesh)

    def _staged(self, mesh: MeshSpec) -> None:
        """One mesh with stages."""
        try:
            if set(mesh.names) <= set(AXES):
                self._joint(mesh.world_size, mesh)
            if not self.found:
                # There are fewer blocks than stages, which cut inside, or
                # axes that the joint search does not know.
                self.found += pipeline_candidates(self.planning, mesh)
        except InfeasiblePlan:
            self.planning.check_alike(mesh)
            raise

    def _overlapping(self, mesh: MeshSpec) -> None:
        """Layouts that are chosen with what overlaps, and a bound on that,
        where that on sums says little."""
        planning, best = self.planning, self.best
        if (self._is_close() or self._is_late()
                or len(planning.cluster.kinds()) > 1):
            return
        again: list[str] = []
        if best is None and not _may_fit(planning, mesh):
            again = planning.repeated_classes()
        if again and not planning.constraints.allows_recompute():
            return
        known = overlapped(planning.facts, mesh, planning.cluster, again)
        if known is None:
            return
        self.overlapped_s = known.bound_s
        self.overlapped_of = _of_layouts(mesh, again)
        if not planning.constraints.items:
            self._take(list(overlapping_candidates(planning, known, again)))

    def _unstaged(self, mesh: MeshSpec) -> None:
        """What the joint search knows of a mesh without stages, where what
        fits is not known to be close to the best."""
        if (self._is_close() or self._is_late()
                or not set(mesh.names) <= set(AXES)):
            return
        made = self._asked(mesh.world_size, mesh, staged=False)
        self._take(made.candidates)
        self.combined_s = made.bound_s if made.looked_at else 0.0

    def _is_close(self) -> bool:
        """Whether a bound says so of the quickest plan that fits."""
        best = self.best
        return best is not None and max(
            self.bound_s / best.summed_s,
            self.overlapped_s / best.run_s) >= 1 - _CLOSE

    def _take(self, candidates: Sequence[Candidate]) -> None:
        """In place of slower ones of the same name."""
        names = {c.name for c in candidates}
        kept = [c for c in self.found if c.name not in names]
        alike = [c for c in self.found if c.name in names]
        quickest: dict[str, Candidate] = {}
        for candidate in sorted([*alike, *candidates], key=self.planning.rank):
            quickest.setdefault(candidate.name, candidate)
        self.found = kept + list(quickest.values())

    def split(self, meshes: Sequence[MeshSpec], ranks: int) -> None:
        """All that the joint search knows, and recipes on the meshes that
        it could not leave out.

        Layouts are searched by the sum of compute and messages, while the
        choice knows what overlaps. Where there are few meshes all of them
        have their recipes priced; else that of data parallelism too, whose
        messages hide best.
        """
        if self.staged:
            self._joint(ranks)
            return
        priced: dict[MeshSpec, Candidate] = {}
        if len(meshes) <= _FEW or _may_fit(self.planning, meshes[0]):
            priced = self._free(self._near(meshes))
        if priced:
            # Where it does not fit, lighter kin of it may be quickest, and
            # leave the joint search less to look at.
            quickest = min(priced, key=lambda m: priced[m].run_s)
            if not self.planning.fits(priced[quickest]):
                self._recipes(quickest, priced)
        made = self._joint(ranks)
        if made.reason and not priced:
            priced = self._free(self._near(meshes))
        promising = {c.mesh for c in made.candidates if c.pipeline is None}
        if self.best is not None:
            promising.add(self.best.mesh)
        if len(meshes) <= _FEW:
            promising |= set(meshes)
        promising |= {m for m in meshes if m.names == ("dp", )}
        for mesh in dict.fromkeys((*priced, *meshes)):
            if self.found and self._is_late():
                break
            if mesh in promising or (made.reason and mesh in priced):
                self._recipes(mesh, priced)

    def _recipes(self, mesh: MeshSpec, priced: Mapping[MeshSpec,
                                                       Candidate]) -> None:
        """All that has no stages on a mesh, the free layouts of which may be
        priced; once."""
        if mesh in self.done:
            return
        self.done.add(mesh)
        first = priced.get(mesh)
        with self._noting():
            self.planning.check_mesh(mesh)
            own = _without_stages(self.planning, mesh, self._is_late, first)
            self.found = [c for c in self.found if c is not first] + own

    def _near(self, meshes: Sequence[MeshSpec]) -> list[MeshSpec]:
        """Those whose axes beside data parallelism stay inside of a node,
        where there are many: across nodes the joint search knows which are
        worth pricing."""
        node = self.planning.cluster.tiers[0].size

        def beside(mesh: MeshSpec) -> int:
            return mesh.world_size // dict(zip(mesh.names, mesh.sizes)).get(
                "dp", 1)

        closest = sorted(meshes, key=beside)
        return [
            m for number, m in enumerate(closest)
            if number < _FEW or beside(m) <= node
        ]

    def _free(self, meshes: Sequence[MeshSpec]) -> dict[MeshSpec, Candidate]:
        """The free search on meshes in the order of their bounds, while
        these are better than what was found."""
        planning, priced = self.planning, dict[MeshSpec, Candidate]()
        known = {m: planning.bound_s(m) for m in meshes}
        for mesh in sorted(meshes, key=lambda m: (known[m], str(m))):
            late = bool(self.found) and self._is_late()
            if late or known[mesh] > self.least_s(_summed_s):
                self.pruned += 1
                self.bound_s = min(self.bound_s, known[mesh])
                continue
            with self._noting():
                planning.check_mesh(mesh)
                priced[mesh] = planning.candidate(mesh, free_policies(mesh))
                self.found.append(priced[mesh])
        return priced

    def _joint(self, ranks: int, mesh: MeshSpec | None = None) -> JointFound:
        made = self._asked(ranks,
                           mesh,
                           staged=self.staged if mesh is None else None)
        if mesh is not None and made.reason and not made.candidates:
            raise InfeasiblePlan(made.reason)
        self.found += made.candidates
        self.pruned += made.pruned
        self.uncut = made.uncut
        self.scored += made.scored
        # Of what overlaps, while bounds on meshes are of sums.
        self.overlaps = not made.reason and math.isfinite(made.bound_s)
        self.bound_of = _COMBINATIONS if self.overlaps else _ALL_LAYOUTS
        self.bound_s = (made.bound_s if self.overlaps else min(
            self.bound_s, made.bound_s))
        return made

    def _asked(self, ranks: int, mesh: MeshSpec | None, *,
               staged: bool | None) -> JointFound:
        """The joint search, which need not find what is known."""
        return joint_candidates(self.planning,
                                ranks,
                                mesh,
                                staged=staged,
                                known_s=self.least_s(_run_s),
                                until_s=self.until_s)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Constraints that leave no layout on one mesh may do on others."""
        try:
            yield
        except InfeasiblePlan as error:
            self.errors.append(error)

    def _recompute(self) -> None:
        """Consider all again with recomputation where nothing fits, once."""
        if self.found and self.best is None and not self.is_again:
            self.is_again = True
            self.found += _again(self.planning, self.found, self._is_late)

    def finished(self) -> tuple[list[Candidate], Searched]:
        """The candidates, with recomputation where nothing fits."""
        planning = self.planning
        if not self.found and self.errors:
            raise self.errors[0]
        self._recompute()
        self._choose_bound()
        of = _run_s if self.overlaps else _summed_s
        bound_s = min(self.bound_s, self.least_s(of))
        found = [
            c if c.bound_s and not self.overlaps else dataclasses.replace(
                c, bound_s=min(bound_s, of(c)), overlaps=self.overlaps)
            for c in sorted(self.found, key=planning.rank)
        ]
        return found, Searched(visited=planning.visited - self.visited_before,
                               pruned=self.pruned,
                               seconds=time.monotonic() - self.start_s,
                               bound_s=bound_s,
                               bound_of=self.bound_of,
                               scored=tuple(self.scored),
                               uncut=self.uncut)

    def _choose_bound(self) -> None:
        """The bound of which the quickest plan is closest."""
        best = self.best
        if best is None:
            return
        if self.overlapped_s / best.run_s > self.bound_s / best.summed_s:
            self._choose(self.overlapped_s, self.overlapped_of)
        of = best.run_s if self.overlaps else best.summed_s
        if self.combined_s / best.run_s > self.bound_s / of:
            gap = 1 - self.bound_s / of
            self._choose(
                self.combined_s, f"{_COMBINATIONS}; the best plan is within "
                f"{gap:.1%} of {self.bound_of}")

    def _choose(self, bound_s: float, bound_of: str) -> None:
        """A bound on steps with what overlaps."""
        self.overlaps, self.bound_s, self.bound_of = True, bound_s, bound_of


def _of_layouts(mesh: MeshSpec, recompute: Sequence[str]) -> str:
    """What a bound on steps with what overlaps is of."""
    found = "all layouts"
    if "dp" in mesh.names:
        found += " that divide the batch over dp"
    if recompute:
        found += f" and recompute {', '.join(recompute)}"
    return f"{found}, whatever memory they take"


def _may_fit(planning: Planning, mesh: MeshSpec) -> bool:
    """Whether something may that has no stages and runs nothing again: what
    one rank would hold of the whole batch, divided evenly among all."""
    if len(planning.cluster.kinds()) > 1:
        # Stronger devices may hold more.
        return True
    one = MeshSpec(("dp", ), (1, ))
    held = planning.memory_of(replicated_layout(planning.facts, one))
    kept = held.parameters + held.gradients + held.optimizer + held.saved
    return kept <= planning.memory_limit_bytes * mesh.world_size


def _without_stages(planning: Planning,
                    mesh: MeshSpec,
                    is_late: Callable[[], bool],
                    first: Candidate | None = None) -> list[Candidate]:
    """Every product of recipes, what improves the best of them, the free
    search (which may have been done), and, where the quickest does not fit,
    its lighter kin; when it gets late only what there is by then."""
    free = first or _laid_out(planning, mesh, free_policies(mesh))
    found: list[Candidate] = []
    for policies in recipe_policies(mesh, planning.constraints):
        if is_late():
            return [*found, free]
        with contextlib.suppress(InfeasiblePlan):  # pins suit others
            found.append(_laid_out(planning, mesh, policies))
    best = min(found, default=None, key=_time_s)
    freed = free if is_late() else _freed(planning, mesh, free, best)
    found.append(freed)
    if not planning.fits(freed) and not is_late():
        found.append(lighter(planning, freed))
    return found


def _laid_out(planning: Planning, mesh: MeshSpec,
              policies: Sequence[Policy]) -> Candidate:
    """Axis by axis; where pins leave nothing to the last of them, the other
    way round."""
    try:
        return planning.candidate(mesh, policies)
    except InfeasiblePlan:
        if len(mesh.sizes) == 1:
            raise
        return planning.candidate(mesh, policies, reverse=True)


def _freed(planning: Planning, mesh: MeshSpec, first: Candidate,
           recipe: Candidate | None) -> Candidate:
    """The best of the free search from a few starts."""
    free = free_policies(mesh)
    tried = [first]
    if len(mesh.sizes) > 1:
        with contextlib.suppress(InfeasiblePlan):
            tried.append(planning.candidate(mesh, free, reverse=True))
        if recipe is not None:
            with contextlib.suppress(InfeasiblePlan):
                tried.append(
                    planning.candidate(mesh, free, start=recipe.layout))
    return min(tried, key=_time_s)


def _again(planning: Planning, found: Sequence[Candidate],
           is_late: Callable[[], bool]) -> list[Candidate]:
    """The candidates with repeated blocks recomputed, and lighter kin of
    the free ones that do not fit even so; one at least, however late."""
    repeated = planning.repeated_classes()
    if not repeated or not planning.constraints.allows_recompute():
        return []
    again: list[Candidate] = []
    for candidate in sorted(found, key=planning.rank):
        if again and is_late():
            return again
        if not candidate.layout.recompute:
            again.append(planning.recomputed(candidate, repeated))
    freed = [
        c for c in again
        if c.is_free and not c.is_lighter and c.pipeline is None
    ]
    for candidate in sorted(freed, key=lambda c: c.bound_s):
        best = min(again, key=planning.rank)
        hopeless = planning.fits(best) and (candidate.bound_s > best.summed_s)
        if not planning.fits(candidate) and not hopeless and not is_late():
            again.append(lighter(planning, candidate))
    return again


def _time_s(candidate: Candidate) -> float:
    return candidate.time_s


def _run_s(candidate: Candidate) -> float:
    return candidate.run_s


def _summed_s(candidate: Candidate) -> float:
    return candidate.summed_s
