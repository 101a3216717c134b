"""The best combination of everything that shares a program among ranks.

Stages, micro-batches, schedule, data, expert, context and tensor
parallelism, what data parallelism shards at rest, recomputation, stage cuts
and which axes span the slower links are chosen together, by branch and
bound (`planner.joint.branch`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.candidate import Candidate
from planner.choices import role_policies
from planner.cluster.spec import DeviceKind
from planner.constraints import Limit
from planner.cost.optimizer import optimizer_bytes
from planner.ir.errors import InfeasiblePlan, LayoutError, ScheduleError
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh
from planner.ir.program import Program, value_kind
from planner.joint.apart import BlocksApart
from planner.joint.between import Between
from planner.joint.bounds import CellBounds
from planner.joint.branch import Branching
from planner.joint.links import Links, place_of
from planner.joint.once import Once
from planner.joint.score import CellScores, Score
from planner.joint.space import AXES, ORDERS, SHARDINGS, Cell, Point, Space
from planner.joint.tables import TOLERANCE, BlockTable, block_table
from planner.joint.ways import State
from planner.pipeline.candidate import priced_pipeline
from planner.pipeline.cuts import Piece, finer_pieces
from planner.pipeline.means import count_ahead
from planner.pipeline.microbatch import with_microbatches
from planner.recipes import RECIPES
from planner.rules.ring import RING_LOWERINGS
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["JointFound", "JointSearch", "joint_candidates", "space_of"]

_TOLERANCE = 0.005
"""What promises to be better by less is not priced."""

_EXPERTS = "scaletorch.experts.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class JointFound:
    """What the joint search found.

    Parameters
    ----------
    candidates : tuple of Candidate
        Priced in full, the best first.
    bound_s : float
        No combination that fits takes less; inf where none was found.
    pruned : int
        Combinations that were not priced in full.
    scored : tuple of Score
        Of each split of the ranks that was looked at closely, the
        combination that promises most, by what it takes at least.
    reason : str
        Why no cell of a part of the batch was laid out; empty if one was.
        There are no stages then, and no data parallelism.
    uncut : str
        The same where it is that the program can't be cut along the batch.
    """

    candidates: tuple[Candidate, ...]
    bound_s: float
    pruned: int
    scored: tuple[Score, ...] = ()
    reason: str = ""
    uncut: str = ""

    @property
    def looked_at(self) -> int:
        """Combinations that the bound is of."""
        return 0 if self.reason else self.pruned + len(self.candidates)


def joint_candidates(
        planning: Planning,
        ranks: int,
        mesh: MeshSpec | None = None,
        *,
        staged: bool | None = None,
        known_s: float = float("inf"),
        until_s: float = float("inf"),
) -> JointFound:
    """Search the combinations for a number of ranks.

    Parameters
    ----------
    planning : Planning
    ranks : int
    mesh : MeshSpec, optional
        Where sizes and order of the axes are given, all named as in
        `planner.joint.space.AXES`.
    staged : bool, optional
        Whether there are stages, or several micro-batches; both are looked
        at if left out.
    known_s : float
        Of the best plan that is known already.
    until_s : float
        When to stop, by the monotonic clock.
    """
    search = JointSearch(planning, ranks, mesh, staged=staged)
    branching = Branching(space=search.space,
                          bounds=search.bounds,
                          scores=search.scores,
                          price=search.price,
                          fits=planning.fits,
                          memory_limit_bytes=planning.memory_limit_bytes,
                          tolerance=_TOLERANCE,
                          known_s=known_s,
                          until_s=until_s,
                          runners_up=planning.runners_up)
    branching.run()
    found = sorted(branching.found, key=planning.rank)
    return JointFound(candidates=tuple(found),
                      bound_s=branching.bound_s * (1 - TOLERANCE),
                      pruned=search.space.count() - len(found),
                      scored=tuple(branching.scored.values()),
                      reason="" if search.is_cut else search.reason,
                      uncut="" if search.is_cut else search.uncut)


def space_of(planning: Planning,
             ranks: int,
             mesh: MeshSpec | None = None,
             *,
             staged: bool | None = None) -> Space:
    """The combinations that a program and its constraints leave."""
    program, lead = planning.program, planning.facts.lead
    fixed: Mapping[str, int] = {}
    # Where all links are alike it does not matter which axis spans them.
    is_one_tier = ranks <= planning.cluster.tiers[0].size
    orders = ORDERS[:1] if is_one_tier else ORDERS
    if mesh is not None:
        sizes = dict(zip(mesh.names, mesh.sizes, strict=True))
        fixed = {n: sizes.get(n, 1) for n in AXES}
        absent = tuple(n for n in AXES if n not in sizes)
        orders = ((*mesh.names, *absent), )
    limits, links = planning.constraints, Links(planning.cluster)
    return Space(
        ranks=ranks,
        batch=planning.facts.batch_rows,
        blocks=len(program.blocks),
        positions=lead.get(1, 1) if _has_sequence(program) else 1,
        experts=_experts(planning),
        fixed=fixed,
        largest={i.axis: i.size
                 for i in limits.items if isinstance(i, Limit)},
        shardings=tuple(n for n in SHARDINGS if limits.allows_recipe(n)),
        recompute=(limits.allows_recompute()
                   and bool(planning.repeated_classes())),
        staged=staged,
        links=links.of,
        is_shared=links.alone_speedup > 1,
        orders=orders)


def _has_sequence(program: Program) -> bool:
    """Whether the second dim of inputs is one of positions."""
    return any(
        value_kind(n) == "input" and s.ndim > 1 and (
            s.ndim == 3 or not s.dtype.is_floating_point)
        for n, s in program.specs.items())


def _experts(planning: Planning) -> int:
    """Of each mixture, as many as all have in common."""
    found = [
        call.operands[3].spec.shape[0]
        for cls in planning.facts.classes.values()
        for call in cls.calls.values() if str(call.node.target) == _EXPERTS
    ]
    return int(np.gcd.reduce(found)) if found else 1


class JointSearch:
    """What branch and bound asks of a program.

    Parameters
    ----------
    planning, ranks, mesh, staged
        As for :func:`joint_candidates`.
    """

    def __init__(self,
                 planning: Planning,
                 ranks: int,
                 mesh: MeshSpec | None = None,
                 *,
                 staged: bool | None = None) -> None:
        self.planning, self.given = planning, mesh
        self.own = planning.of_program(count_ahead(planning.program))
        self.blocks = BlocksApart(self.own.program, self.own.facts.known_calls)
        self.space = space_of(planning, ranks, mesh, staged=staged)
        self.links = Links(planning.cluster, planning.limits)
        self.reason, self.uncut, self.is_cut = "", "", False
        self.laid_out: dict[Cell, ProgramLayout | None] = {}
        self._whole_rows: set[tuple[int, bool]] = set()
        self._besides: dict[tuple[MeshSpec, Cell, int, str],
                            ProgramLayout] = {}
        self.between = Between(self.space.batch, self._bends)
        self.devices = _devices(self.space, self.links)
        names = planning.repeated_classes()
        self.repeated = np.array(
            [b.block_class in names for b in self.own.program.blocks])
        self.bounds = CellBounds(self.space, self.links, _state(planning),
                                 self.repeated,
                                 self.links.mean_limit_bytes(ranks),
                                 self._pieces, self.between)

    def _bends(self, layout: ProgramLayout) -> bool:
        """Whether the times of some layouts are not concave in the rows."""
        rings = set(RING_LOWERINGS)
        return self._has_caches or any(o.lowering in rings
                                       for cls in layout.classes.values()
                                       for c in cls.calls.values()
                                       for o in c.options)

    @functools.cached_property
    def _has_caches(self) -> bool:
        """Whether some device is quicker for few bytes."""
        return any(
            d.coefficient("cache_bytes", 0.0)
            for d in self.planning.cluster.kinds())

    def scores(self, cell: Cell) -> CellScores | None:
        """Of a cell; None where these rows can't be cut so."""
        table = self._table(cell, exact=True)
        if table is None and self.planning.constraints.allows_batch_statistics(
        ):
            table = self._table(cell, exact=False)
        if table is None:
            return None
        self.is_cut = self.is_cut or cell.rows < self.space.batch

        return CellScores(table, self.links, self.repeated,
                          functools.partial(self._pieces, table),
                          Once(self.own, table, self._mesh))

    def _pieces(self, table: BlockTable, stages: int) -> list[Piece]:
        return finer_pieces(self.own.facts, [table.call_times_s], stages)

    def _table(self, cell: Cell, *, exact: bool) -> BlockTable | None:
        if (cell.rows, exact) in self._whole_rows:
            return None
        try:
            table = block_table(self.own,
                                cell,
                                devices=self.devices,
                                exact=exact,
                                alone=self._alone(cell),
                                like=self._nearest(cell),
                                settled=self.between.settles(cell),
                                blocks=self.blocks)
        except (InfeasiblePlan, LayoutError) as error:
            self.reason = str(error)
            if isinstance(error, LayoutError) and cell.rows < self.space.batch:
                self.uncut = self.reason
            if cell.ranks == 1 and isinstance(error, LayoutError):
                # Micro-batches are cut first, the same way for all cells.
                self._whole_rows.add((cell.rows, exact))
            return None
        self.laid_out[cell] = table.layout
        self.between.learn(cell, table.layout)
        return dataclasses.replace(table, counting_s=self._counting_s(cell))

    def _counting_s(self, cell: Cell) -> float:
        """Of what is divided among ranks it is less."""
        share = cell.rows / self.space.batch
        device = self.planning.cluster.weakest()
        split_s, whole_s = (p.facts.computing_s(device, share)
                            for p in (self.own, self.planning))
        return max(split_s - whole_s, 0.0)

    def _alone(self, cell: Cell) -> dict[str, ProgramLayout | None]:
        """Layouts over its axes alone, where they are known."""
        return {
            n: self._nearest(part)
            for part in self.bounds.parts.alone(cell)
            for n in ("ep", "cp", "tp") if getattr(part, n) > 1
        }

    def _nearest(self, cell: Cell) -> ProgramLayout | None:
        """Layouts over the same axes for the most similar rows, where there
        are any."""
        known = {
            c: layout
            for c, layout in self.laid_out.items()
            if layout and c._replace(rows=cell.rows) == cell
        }

        def unlike(other: Cell) -> tuple[int, int]:
            most, least = max(other.rows,
                              cell.rows), min(other.rows, cell.rows)
            return most // least, -other.rows

        return known[min(known, key=unlike)] if known else None

    def price(self, point: Point, scores: CellScores) -> Candidate | None:
        """The combination laid out, priced and simulated."""
        planning, mesh = self.planning, self._mesh(point)
        again = planning.repeated_classes() if point.recompute else ()
        try:
            if not point.is_staged:
                return planning.candidate(mesh,
                                          self._policies(mesh, point),
                                          recompute=again)
            layout = dataclasses.replace(self._beside(point, scores, mesh),
                                         recompute=frozenset(again))
            return priced_pipeline(planning,
                                   self.own.program,
                                   layout,
                                   self._pipeline(point, scores),
                                   self._policies(inner_mesh(mesh, "pp"),
                                                  point),
                                   mesh,
                                   bound_s=0.0)
        except (InfeasiblePlan, LayoutError, ScheduleError):
            return None

    def _beside(self, point: Point, scores: CellScores,
                mesh: MeshSpec) -> ProgramLayout:
        """The layouts of its cell beside data parallelism, and what is
        better with that in sight."""
        key = (mesh, point.cell, point.microbatches, point.sharding)
        if key not in self._besides:
            inner, found = inner_mesh(mesh, "pp"), scores.table.layout
            assert found is not None
            self._besides[key] = with_microbatches(
                self.own,
                inner,
                self._policies(inner, point),
                point.microbatches,
                exact=scores.table.is_exact,
                settle=False,
                cut=point.microbatches > 1,
                alone={
                    n: found
                    for n in inner.names if n != "dp" and n in found.mesh.names
                },
                first=[n for n in inner.names if n == "dp"],
                whole=mesh)
        return self._besides[key]

    def _pipeline(self, point: Point, scores: CellScores) -> PipelineSpec:
        return PipelineSpec(schedule=point.schedule,
                            microbatches=point.microbatches,
                            chunks=point.chunks,
                            cuts=scores.cuts(point).cuts,
                            batch_statistics="exact"
                            if scores.table.is_exact else "microbatch")

    def _mesh(self, point: Point) -> MeshSpec:
        """The given one, or without axes of one rank, but with stages and
        one other."""
        if self.given is not None:
            return self.given
        kept = {
            n: s
            for n, s in point.sizes.items()
            if s > 1 or n == "pp" and point.is_staged
        }
        if not set(kept) - {"pp"}:
            kept["dp"] = 1
        return MeshSpec(tuple(kept), tuple(kept.values()))

    def _policies(self, mesh: MeshSpec, point: Point) -> tuple[Policy, ...]:
        data = RECIPES[point.sharding]().parts[0][1]
        roles = role_policies(mesh, self.planning.constraints)
        return tuple(data if n == "dp" else p
                     for n, p in zip(mesh.names, roles, strict=True))


def _devices(space: Space, links: Links) -> tuple[DeviceKind, ...]:
    """That stages may be on, and each alone, where there are several kinds."""
    if not links.is_mixed:
        return ()
    places = {(1, space.ranks, 1)} | {
        place_of(split._replace(order=order), "pp")
        for cell in space.cells()
        for split in space.splits(cell)
        for order in space.orders
    }
    return tuple(
        dict.fromkeys(d for p in sorted(places) for d in links.devices(p)))


def _state(planning: Planning) -> State:
    specs = [planning.program.specs[n] for n in planning.program.params]
    trained = [s for s in specs if s.requires_grad]
    return State(parameter_bytes=sum(s.size_bytes for s in specs),
                 gradient_bytes=sum(s.size_bytes for s in trained),
                 optimizer_bytes=optimizer_bytes(planning.optimizer, trained))
