"""What is moved once a step in the layouts of a cell, beside data parallelism.

A cell's layouts say how parameters are used. Where they rest over its axes
depends on data parallelism as well: sums over quick links that leave a part
of a gradient to the slow ones are worth more. So of each parameter the place
is taken that costs least, as the search of layouts does, and the movements of
a stage are put in buckets and timed as its price is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.cost.conversion import ConversionCost
from planner.cost.memory_estimate import local_spec
from planner.cost.optimizer import optimizer_bytes
from planner.cost.stage_time import fed_s, once_s
from planner.cost.state_moves import StateMoves
from planner.cost.step import blocks_s
from planner.cost.timeline import Streams
from planner.ir.layout import Layout, Placement, R, S, V
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH, inner_mesh
from planner.ir.program import Program, value_kind
from planner.ir.values import Value
from planner.joint.space import Point
from planner.joint.tables import BlockTable
from planner.rules.registry import TensorSpec
from planner.search.policy import UNDIVIDED_S

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["Once", "Resting"]

Array = NDArray[np.float64]

_ROUNDING = 1e-9  # relative


class Once:
    """Of a cell's table; remembers what it has found.

    Parameters
    ----------
    planning : Planning
        Of the program that was laid out.
    table : BlockTable
        With its layouts.
    mesh_of : callable
        The mesh of a combination.
    """

    def __init__(self, planning: Planning, table: BlockTable,
                 mesh_of: Callable[[Point], MeshSpec]) -> None:
        assert table.layout is not None
        self._planning, self._table = planning, table
        self._layout: ProgramLayout = table.layout
        self._mesh_of = mesh_of
        self._known: dict[tuple[object, ...], Resting] = {}

    def of(self, point: Point) -> Resting:
        """Beside the data parallelism of a combination."""
        whole = self._mesh_of(point)
        inner = inner_mesh(whole, "pp") if "pp" in whole.names else whole
        mesh = MeshSpec((*inner.names, MICROBATCH),
                        (*inner.sizes, self._layout.mesh.sizes[-1]))
        cost = self._planning.tables(mesh, whole).cost
        key = (point.sharding, inner, cost.axes)
        if key not in self._known:
            self._known[key] = _resting(self._planning, self._table, mesh,
                                        point.sharding, cost)
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class Resting:
    """Parameters with their places.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
        Of parameters alone.
    cost : ConversionCost
    kind : array of int
        Which blocks are alike.
    parameter_bytes, state_bytes : array
        At rest, and of the optimizer, by block.
    gathered_bytes, again_bytes : array
        Whole copies beside that: kept for a step, and gathered again.
    """

    program: Program
    layout: ProgramLayout
    cost: ConversionCost
    kind: NDArray[np.int64]
    parameter_bytes: Array
    state_bytes: Array
    gathered_bytes: Array
    again_bytes: Array
    _known: dict[tuple[object, ...],
                 tuple[float, float]] = field(default_factory=dict)
    _states: dict[str, StateMoves] = field(default_factory=dict)

    @property
    def is_gathered_again(self) -> bool:
        """Whether parameters are, for both ways of each micro-batch."""
        return bool(self.layout.regather)

    def once_s(self, first: int, end: int) -> tuple[float, float]:
        """Of a stage of the blocks from `first` on: before the first
        micro-batch, and after the last."""
        key = tuple(self.kind[first:end].tolist())
        if key not in self._known:
            stage = self._stage(first, end)
            device = self.cost.device
            begin_s, finish_s = once_s(self._moves(stage), end - first,
                                       Streams.of(device))
            handed_s = device.coefficient("call_parameter_s", 0.0)
            self._known[
                key] = begin_s, finish_s + handed_s * _num_trained(stage)
        return self._known[key]

    def fed_s(self, first: int, end: int, forward_s: Array,
              backward_s: Array) -> tuple[float, float]:
        """Both ways of a micro-batch through a stage whose parameters are
        gathered for it, from what they take of each block."""
        ways_s = forward_s[first:end].tolist(), backward_s[first:end].tolist()
        key = (*self.kind[first:end].tolist(), *ways_s[0], *ways_s[1])
        if key not in self._known:
            state = self._moves(self._stage(first, end))
            streams, last = Streams.of(self.cost.device), end - first - 1
            again = [
                dataclasses.replace(u, first=last - u.first)
                for u in state.gathers_again()
            ]
            self._known[key] = (fed_s(ways_s[0], state.gathers_each(),
                                      streams),
                                fed_s(ways_s[1][::-1], again, streams))
        return self._known[key]

    def step_s(self, forward_s: Array, backward_s: Array) -> float:
        """Of a step without stages, from what both ways of each block take,
        without what is around the blocks."""
        blocks, streams = self.program.blocks, Streams.of(self.cost.device)
        ways = {
            b.block_class: (f, back)
            for b, f, back in zip(blocks, forward_s.tolist(),
                                  backward_s.tolist())
        }
        if "step" not in self._states:
            self._states["step"] = self._moves(self.program)
        return blocks_s(self.program, ways, self._states["step"], streams)

    def _stage(self, first: int, end: int) -> Program:
        blocks = self.program.blocks[first:end]
        names = {b.block_class for b in blocks}
        classes = {n: self.program.classes[n] for n in names}
        return dataclasses.replace(self.program,
                                   blocks=blocks,
                                   classes=classes)

    def _moves(self, stage: Program) -> StateMoves:
        return StateMoves(stage, self.layout, self.cost)


def _num_trained(program: Program) -> int:
    return len({
        name
        for _, _, name in program.uses()
        if value_kind(name) == "param" and program.specs[name].requires_grad
    })


def _resting(planning: Planning, table: BlockTable, mesh: MeshSpec,
             sharding: str, cost: ConversionCost) -> Resting:
    program, layout = planning.program, table.layout
    assert layout is not None
    places = _Places(planning, layout, mesh, sharding, cost)
    hubs: dict[str, dict[str, Layout]] = {n: {} for n in program.classes}
    at_rest: dict[str, Layout] = {}
    rows = np.zeros((5, len(program.blocks)))
    number = {b.name: i for i, b in enumerate(program.blocks)}
    uses: dict[str, dict[Layout, None]] = {}
    read = [u for u in program.uses() if value_kind(u[2]) == "param"]
    for block, node, name in read:
        label, own = Value(node).label, hubs[block.block_class]
        if label not in own:
            own[label] = places.wide(
                layout.classes[block.block_class].hubs[label],
                V if program.specs[name].requires_grad else R)
        uses.setdefault(name, {})[own[label]] = None
    held: dict[tuple[TensorSpec, Layout, Layout, Layout], Array] = {}
    for block, node, name in read:
        spec, use = (program.specs[name],
                     hubs[block.block_class][Value(node).label])
        if name not in at_rest:
            at_rest[name] = places.best(name, spec, tuple(uses[name]))
        key = spec, layout.at_rest[name], at_rest[name], use
        if key not in held:
            held[key] = places.held(*key, planning.optimizer)
        rows[:, number[block.name]] += held[key]
    before, rest, state, gathered, again = rows
    return Resting(program=program,
                   layout=ProgramLayout(mesh=mesh,
                                        classes={
                                            n: ClassLayout(calls={}, hubs=h)
                                            for n, h in hubs.items()
                                        },
                                        at_rest=at_rest,
                                        regather=frozenset(
                                            n for n in at_rest
                                            if places.is_gathered_again)),
                   cost=cost,
                   kind=table.kind,
                   parameter_bytes=table.parameter_bytes - before + rest,
                   state_bytes=state,
                   gathered_bytes=gathered,
                   again_bytes=again)


class _Places:
    """Where parameters may rest over all axes, and which place is best."""

    def __init__(self, planning: Planning, layout: ProgramLayout,
                 mesh: MeshSpec, sharding: str, cost: ConversionCost) -> None:
        self._allows = planning.constraints.allows
        self._names, self._sizes, self._cost = mesh.names, mesh.sizes, cost
        self._own_sizes = layout.mesh.sizes
        self._there = [
            layout.mesh.names.index(n)
            if n != "dp" and n in layout.mesh.names else -1 for n in mesh.names
        ]
        self._sharding = sharding
        self._best: dict[tuple[TensorSpec, tuple[Layout, ...]], Layout] = {}
        self._is_constrained = bool(planning.constraints.items)

    @property
    def is_gathered_again(self) -> bool:
        """Whether parameters are, for both ways of each micro-batch."""
        return self._sharding == "fsdp"

    def wide(self, own: Layout, data: Placement) -> Layout:
        """A layout over the cell's axes, over all."""
        return tuple(own[i] if i >= 0 else data if n == "dp" else R
                     for n, i in zip(self._names, self._there, strict=True))

    def best(self, name: str, spec: TensorSpec, uses: tuple[Layout,
                                                            ...]) -> Layout:
        """Where it is brought into use from in least time."""
        key = spec, uses
        if self._is_constrained or key not in self._best:
            every = list(self._every(name, spec, uses))
            times = [self._moved_s(spec, rest, uses) for rest in every]
            least_s = min(times) * (1 + _ROUNDING)
            # From where pins leave it, layouts of its own may bring it.
            self._best[key] = next(
                (rest for rest, time_s in zip(every, times, strict=True)
                 if time_s <= least_s < math.inf), (R, ) * len(self._sizes))
        return self._best[key]

    def _every(self, name: str, spec: TensorSpec,
               uses: tuple[Layout, ...]) -> Iterator[Layout]:
        yield from itertools.product(
            *(self._placements(name, spec, axis, set(placements))
              for axis, placements in enumerate(zip(*uses, strict=True))))

    def _placements(self, name: str, spec: TensorSpec, axis: int,
                    uses: Set[Placement]) -> list[Placement]:
        """Over one axis, the whole first."""
        own, size = self._names[axis], self._sizes[axis]
        if own == MICROBATCH or size == 1:
            return [R]
        shards = [
            S(d) for d in range(spec.ndim)
            if spec.shape[d] >= size and spec.shape[d] % size == 0
        ]
        found: list[Placement] = [R, *shards]
        if own == "dp":
            found = [R] if self._sharding == "ddp" else [*shards, R]
        bare = name.partition(":")[2]
        legal = [p for p in found if self._allows(own, bare, p)]
        # What is used in parts costs nothing where it rests so.
        return [*uses] if len(uses) == 1 and uses <= {*legal} else (legal
                                                                    or found)

    def _moved_s(self, spec: TensorSpec, rest: Layout,
                 uses: tuple[Layout, ...]) -> float:
        """With what the policy of data parallelism adds."""
        found = sum(p.is_replicated for p, n in zip(rest, self._names)
                    if n == "dp") * UNDIVIDED_S * (self._sharding != "ddp")
        for use in uses:
            forward_s, backward_s = self._cost.times_s(spec, rest, use)
            found += forward_s * (1 + self.is_gathered_again) + backward_s
        return found

    def held(self, spec: TensorSpec, own: Layout, rest: Layout, use: Layout,
             optimizer: str) -> Array:
        """Bytes at rest over the cell's axes and over all, of the optimizer's
        state, and of whole copies: for a step, and gathered again."""
        there = local_spec(spec, rest, self._sizes)
        used = local_spec(spec, use, self._sizes).size_bytes
        copied = used if used > there.size_bytes else 0
        again = self.is_gathered_again
        return np.array([
            local_spec(spec, own,
                       self._own_sizes).size_bytes, there.size_bytes,
            optimizer_bytes(optimizer, [there]) if spec.requires_grad else 0,
            copied * (not again), copied * again
        ], np.float64)
