"""The best combination of stages, micro-batches, data and tensor parallelism.

Every combination is scored from the block tables; the best few that fit are
laid out and simulated in full, in the order of their scores, until no score
left is better than what was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from planner.candidate import Candidate
from planner.choices import free_policies
from planner.ir.errors import LayoutError, ScheduleError
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec
from planner.ir.program import Program
from planner.joint.score import Score, Scorer
from planner.joint.space import Point, points
from planner.joint.tables import BlockTable, block_table
from planner.pipeline.candidate import pipeline_candidate
from planner.pipeline.means import count_ahead
from planner.recipes import RECIPES
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["joint_candidates"]

_FEWEST, _FINALISTS = 4, 8
"""How many combinations are laid out and simulated in full."""


def joint_candidates(
        planning: Planning,
        ranks: int,
        fixed: Mapping[str, int] | None = None) -> list[Candidate]:
    """Pipelines for a number of ranks, the best first.

    Parameters
    ----------
    planning : Planning
    ranks : int
    fixed : mapping of str to int, optional
        Sizes of the axes ``pp``, ``dp`` and ``tp`` that are given.

    Returns
    -------
    list of Candidate
        At most a few; none where the program can't be cut into
        micro-batches.
    """
    own = planning.of_program(count_ahead(planning.program))
    batch = _batch(own.program)
    every = list(points(ranks, batch, len(own.program.blocks), fixed=fixed))
    tables = _tables(own, every, batch)
    scorer = Scorer(tables, planning.cluster, _repeated(own))
    scored = [
        scorer.score(p) for p in every if (p.tp, p.rows) in tables and (
            not p.recompute or planning.constraints.allows_recompute())
    ]
    return _finalists(planning, scored)


def _batch(program: Program) -> int:
    rows = [
        s.shape[0] for n, s in program.specs.items()
        if n.startswith("input:") and s.ndim
    ]
    return max(set(rows), key=rows.count) if rows else 1


def _repeated(planning: Planning) -> np.ndarray:
    names = planning.repeated_classes()
    return np.array([b.block_class in names for b in planning.program.blocks])


def _tables(planning: Planning, every: Sequence[Point],
            batch: int) -> dict[tuple[int, int], BlockTable]:
    found = {}
    for tp, rows in sorted({(p.tp, p.rows) for p in every}):
        try:
            found[tp, rows] = block_table(planning, tp, rows, batch)
        except LayoutError:
            continue  # these rows can't be cut so
    return found


def _finalists(planning: Planning, scored: Sequence[Score]) -> list[Candidate]:
    limit = planning.memory_limit_bytes

    def rank(score: Score) -> tuple[float, float, str]:
        return (max(0.0, score.memory_bytes - limit), score.time_s,
                str(score.point))

    found: list[Candidate] = []
    for score in sorted(scored, key=rank):
        best_s = min((c.time_s for c in found if planning.fits(c)),
                     default=float("inf"))
        enough = len(found) >= _FEWEST and score.time_s > best_s
        if enough or len(found) >= _FINALISTS:
            break
        try:
            found.append(_exact(planning, score.point))
        except (LayoutError, ScheduleError):
            continue
    return sorted(found, key=lambda c: (not planning.fits(c), c.time_s))


def _exact(planning: Planning, point: Point) -> Candidate:
    """The combination laid out, priced and simulated."""
    mesh = _shortened(point)
    inner = [n for n in mesh.names if n != "pp"]
    policies = tuple(_policy(n, point) for n in inner)
    spec = PipelineSpec(schedule=point.schedule,
                        microbatches=point.microbatches,
                        chunks=point.chunks)
    found = pipeline_candidate(planning, spec, policies, mesh)
    if not point.recompute:
        return found
    return planning.recomputed(found, planning.repeated_classes())


def _shortened(point: Point) -> MeshSpec:
    """The mesh without axes of one rank, but with stages and one other."""
    sizes = {"pp": point.pp, "dp": point.dp, "tp": point.tp}
    kept = {n: s for n, s in sizes.items() if s > 1 or n == "pp"}
    if len(kept) == 1:
        kept["dp"] = 1
    return MeshSpec(tuple(kept), tuple(kept.values()))


def _policy(axis: str, point: Point) -> Policy:
    if axis == "dp":
        return RECIPES[point.sharding]().parts[0][1]
    return free_policies(MeshSpec((axis, ), (point.tp, )))[0]
