"""What moves when a model goes from one plan to another.

A rank keeps its number. What it holds of a parameter at rest under the new
plan, and not yet under the old one, has to come from elsewhere; optimizer
state lies as its parameter does and moves with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.optimizer import optimizer_bytes
from planner.ir.layout import Layout, format_layout
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import inner_mesh
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.pipeline.build import pipelined
from planner.pipeline.holders import holders_of
from planner.pipeline.means import count_ahead
from planner.schedule.named import make_schedule

__all__ = ["Move", "Moves", "moves_between"]

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A parameter that lies elsewhere, or otherwise, than before.

    Parameters
    ----------
    name : str
    before, after : str
        Layouts at rest with their axes, and the stages that hold it.
    size_bytes : int
        Of parameter and optimizer state, that all ranks together receive.
    """

    name: str
    before: str
    after: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """The way from one plan to another.

    Parameters
    ----------
    before, after : MeshSpec
    parameters : tuple of Move
        In the order of the model; none that stays where it is.
    received_bytes : tuple of int
        By rank of the new mesh: parameters and optimizer state that it does
        not hold yet.
    """

    before: MeshSpec
    after: MeshSpec
    parameters: tuple[Move, ...]
    received_bytes: tuple[int, ...]

    @property
    def total_bytes(self) -> int:
        return sum(self.received_bytes)

    def folded(self) -> list[tuple[str, int, Move]]:
        """Parameters of repeated blocks as one: pattern, count, an example
        with the bytes of all."""
        groups: dict[tuple[str, str, str], list[Move]] = {}
        for move in self.parameters:
            pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", move.name)
            key = pattern, move.before, move.after
            groups.setdefault(key, []).append(move)
        return [(pattern if len(own) > 1 else own[0].name, len(own),
                 Move(name=own[0].name,
                      before=before,
                      after=after,
                      size_bytes=sum(m.size_bytes for m in own)))
                for (pattern, before, after), own in groups.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Which part of a tensor each rank holds; an empty one for none.

    Parameters
    ----------
    starts, ends : array of int, ranks x dims
    """

    starts: Whole
    ends: Whole

    def sizes(self) -> Whole:
        """Elements of each rank."""
        return np.prod(np.maximum(self.ends - self.starts, 0), axis=1)

    def common(self, other: _Held) -> Whole:
        """Elements that both hold, of the ranks that both have."""
        ranks = min(len(self.starts), len(other.starts))
        return _Held(starts=np.maximum(self.starts[:ranks],
                                       other.starts[:ranks]),
                     ends=np.minimum(self.ends[:ranks],
                                     other.ends[:ranks])).sizes()


class _Placed:
    """Where a plan puts parameters at rest."""

    def __init__(self, program: Program, plan: Plan) -> None:
        self.mesh, self.axis = plan.device_mesh, ""
        self.names = plan.mesh.names
        form = count_ahead(program) if plan.pipeline else program
        self.layout = plan.resolve(form)
        self.owners: Mapping[str, tuple[int, ...]] = {}
        if plan.pipeline is not None:
            self.axis = plan.pipeline.axis
            self.names = inner_mesh(plan.mesh, self.axis).names
            self._put_on_stages(form, plan, self.layout)

    def _put_on_stages(self, program: Program, plan: Plan,
                       layout: ProgramLayout) -> None:
        assert plan.pipeline is not None
        spec = plan.pipeline
        parts = pipelined(program, layout, spec)
        owner = make_schedule(spec.schedule,
                              ranks=self.mesh.size(spec.axis),
                              microbatches=spec.microbatches,
                              chunks=spec.chunks).stage_rank
        self.owners = holders_of(parts.stages, owner,
                                 self.mesh.size(spec.axis))

    def of(self, name: str) -> Layout:
        """The layout at rest, over the axes that shard it."""
        return self.layout.at_rest[name][:len(self.names)]

    def text(self, name: str) -> str:
        """The layout with its axes, and the stages."""
        pairs = zip(format_layout(self.of(name)).split(),
                    self.names,
                    strict=True)
        words = ", ".join(f"{p} over {axis}" for p, axis in pairs if p != "R")
        if not self.axis or not self.owners.get(name):
            return words or "whole"
        ranks = " and ".join(map(str, self.owners[name]))
        return f"{words or 'whole'} on {self.axis} {ranks}"

    def key(self, name: str) -> tuple[Layout, tuple[int, ...]]:
        """Equal for parameters that lie alike."""
        return self.of(name), self.owners.get(name, ())

    def held(self, name: str, shape: tuple[int, ...]) -> _Held:
        """The parts of all ranks."""
        shape = shape or (1, )
        places = dict(
            zip(self.mesh.names,
                np.indices(self.mesh.sizes).reshape(len(self.mesh.sizes), -1),
                strict=True))
        ranks = self.mesh.world_size
        starts = np.zeros((ranks, len(shape)), dtype=np.int64)
        sizes = np.tile(np.array(shape, dtype=np.int64), (ranks, 1))
        for axis, placement in zip(self.names, self.of(name), strict=True):
            if placement.is_shard:
                sizes[:, placement.dim] //= self.mesh.size(axis)
                starts[:, placement.dim] += (places[axis] *
                                             sizes[:, placement.dim])
        if self.owners.get(name):
            away = ~np.isin(places[self.axis], self.owners[name])
            sizes[away] = 0
        return _Held(starts=starts, ends=starts + sizes)


def moves_between(program: Program,
                  before: Plan,
                  after: Plan,
                  *,
                  optimizer: str = "adamw") -> Moves:
    """What each rank has to receive to go on under another plan.

    Parameters
    ----------
    program : Program
        As captured.
    before, after : Plan
        Of this program; the meshes may differ in size.
    optimizer : str
        Whose state moves with the parameters.

    Raises
    ------
    LayoutError
        When a plan does not fit the program.
    """
    old, new = _Placed(program, before), _Placed(program, after)
    received = np.zeros(after.mesh.world_size, dtype=np.int64)
    known: dict[object, Whole] = {}
    found = []
    for name in program.params:
        spec = program.specs[name]
        key = spec.shape, old.key(name), new.key(name)
        if key not in known:
            known[key] = _missing(old.held(name, spec.shape),
                                  new.held(name, spec.shape))
        each = spec.dtype.itemsize
        if spec.requires_grad and spec.size_bytes:
            each += round(
                optimizer_bytes(optimizer, [spec]) / spec.size_bytes * each)
        received += known[key] * each
        texts = old.text(name), new.text(name)
        total = int(known[key].sum()) * each
        if total or texts[0] != texts[1]:
            found.append(
                Move(name=name.partition(":")[2],
                     before=texts[0],
                     after=texts[1],
                     size_bytes=total))
    return Moves(before=before.mesh,
                 after=after.mesh,
                 parameters=tuple(found),
                 received_bytes=tuple(received.tolist()))


def _missing(old: _Held, new: _Held) -> Whole:
    """Elements of each new rank that it does not hold yet."""
    missing = new.sizes()
    common = new.common(old)
    missing[:len(common)] -= common
    return missing
