"""What bringing a parameter into use and its gradient back takes at least.

The buckets are those of :mod:`planner.cost.state_moves`. Which parameters
share one is not known before all layouts are, so each pays its part of the
largest bucket that it can be in: a collective of more bytes takes less time
a byte.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.cost.conversion import ConversionCost, Held
from planner.cost.roofline import memory_time_s
from planner.cost.state_moves import BUCKET_BYTES
from planner.ir.convert import Step, conversion_steps
from planner.ir.layout import Layout, R, S
from planner.ir.program import value_kind
from planner.ir.values import Value
from planner.rules.registry import TensorSpec
from planner.search.facts import Facts
from planner.search.overlap_mesh import OverlapMesh

__all__ = ["PARTS", "StateTimes", "Uses", "state_times", "uses_of"]

PARTS = 7
"""Kinds of seconds that :meth:`StateTimes.of` tells apart."""

_FAR = 1e15
_SUMS = ("all_reduce", "reduce_scatter")
_Array = npt.NDArray[np.float64]
_Sized = Sequence[tuple[Step, Held]]
"""Steps, and what each moves before its axis divides it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """How often a parameter of a class is used in a step.

    Parameters
    ----------
    all : float
    first : float
        Of these by the first block, before which nothing is computed.
    second : float
        By the second, behind whose gradients only the first's are.
    block_bytes : float
        Of all parameters of a block.
    """

    all: float
    first: float
    second: float
    block_bytes: float


@dataclass(slots=True, eq=False)
class StateTimes:
    """Least seconds on one mesh.

    Parameters
    ----------
    cost : ConversionCost
        Of all axes.
    sizes_bytes : sequence of float
        That parameters may have on a rank in use.
    """

    cost: ConversionCost
    sizes_bytes: Sequence[float]
    _known: dict[tuple[TensorSpec, Layout, Uses],
                 _Array] = field(default_factory=dict)
    _at: dict[tuple[str, int, float], float] = field(default_factory=dict)
    _bucket: float = 0.0

    def __post_init__(self) -> None:
        small = [n for n in self.sizes_bytes if n < BUCKET_BYTES]
        self._bucket = BUCKET_BYTES + max(small, default=0.0)

    def of(self, spec: TensorSpec, use: Layout, uses: Uses) -> _Array:
        """All ways from rest into use and back.

        Parameters
        ----------
        spec : TensorSpec
        use : Layout
            Over all axes.
        uses : Uses

        Returns
        -------
        array of shape (ways, PARTS)
            One row for each layout at rest: what nothing hides; messages
            that may be hidden; what is left to do when the backward is
            over; messages for the first block; those for the gradients of
            the first and of the second block; and launches of what packs
            gradients.
        """
        key = spec, use, uses
        if key not in self._known:
            self._known[key] = np.array([
                self._way(spec, steps, uses)
                for _, steps in self._ways(spec, use)
            ] or [[math.inf] + [0.0] * (PARTS - 1)])
        return self._known[key]

    def rests(self, spec: TensorSpec, use: Layout) -> list[Layout]:
        """The layouts from which one in use is reached."""
        return [rest for rest, _ in self._ways(spec, use)]

    def _ways(self, spec: TensorSpec,
              use: Layout) -> Iterator[tuple[Layout, _Sized]]:
        """Each layout at rest with what brings it into use."""
        every = itertools.product(
            *[(R, *(S(d)
                    for d in range(spec.ndim) if spec.shape[d] % size == 0))
              for size in self.cost.sizes])
        for rest in every:
            steps = conversion_steps(rest,
                                     use,
                                     differentiable=spec.requires_grad)
            if steps is not None:
                sizes = [(s, self.cost.held(spec, s)) for s in steps]
                even = [(s, n) for s, n in sizes if n is not None]
                if len(even) == len(steps):
                    yield rest, even

    def _way(self, spec: TensorSpec, pairs: _Sized, uses: Uses) -> list[float]:
        used = max((n.size_bytes for _, n in pairs), default=0.0)
        copied_s, alone_s, hidden_s = self._gather(pairs, used, uses)
        seen_s = (uses.all - uses.first) * copied_s + uses.all * alone_s
        packed_s = open_s = after_s = 0.0
        if spec.requires_grad:
            packed_s, open_s, after_s = self._reduce(pairs, used)
        launch_s = self.cost.device.launch_overhead_s * (open_s > 0)
        return [
            seen_s + uses.all * (packed_s - launch_s),
            uses.all * (hidden_s + open_s), uses.all * after_s,
            uses.first * hidden_s, uses.first * open_s, uses.second * open_s,
            uses.all * launch_s
        ]

    def _gather(self, pairs: _Sized, used: float,
                uses: Uses) -> tuple[float, float, float]:
        """What is copied on the way into use, what is waited for, and what
        is hidden unless nothing is computed before."""
        moving = [(s, n) for s, n in pairs if s.forward.kind != "none"]
        if not moving:
            return 0.0, 0.0, 0.0
        step = moving[0][0]
        if (len(moving) > 1 or step.forward.kind != "all_gather"
                or step.source.parts):
            return 0.0, sum(
                self.cost.move_time_s(s.forward, n, s.axis)
                for s, n in moving), 0.0
        most = max(uses.block_bytes, BUCKET_BYTES, used)
        part_s = self._at_s("all_gather", step.axis, most) * used / most
        return self._copied_s(used), 0.0, part_s

    def _reduce(self, pairs: _Sized,
                used: float) -> tuple[float, float, float]:
        """What is seen of the gradient's way to rest, what may be hidden,
        and what is left for the end."""
        back = [(s, n) for s, n in pairs if s.backward.kind != "none"][::-1]
        if not back:
            return 0.0, 0.0, 0.0
        scatters = sum(s.backward.kind == "reduce_scatter" for s, _ in back)
        if scatters > 1 or any(
                s.backward.kind not in _SUMS or s.backward.target_parts
                for s, _ in back):
            return sum(
                self.cost.move_time_s(s.backward, n, s.axis)
                for s, n in back), 0.0, 0.0
        first_s, *after_s = (self._part_s(s.backward.kind, s.axis,
                                          n.size_bytes, used) for s, n in back)
        return (self._copied_s(
            (1 + bool(scatters)) * used), first_s, sum(after_s))

    def _part_s(self, kind: str, axis: int, size_bytes: float,
                used: float) -> float:
        """Of the largest bucket; a parameter that fills one by itself may
        take small ones along, which pay as if it did not."""
        ratio, most = size_bytes / used, self._bucket
        each_s = self._at_s(kind, axis, ratio * most) / most
        if used < BUCKET_BYTES:
            return each_s * used
        far_s = (self._at_s(kind, axis, 2 * _FAR) -
                 self._at_s(kind, axis, _FAR)) / _FAR * ratio
        return (self._at_s(kind, axis, size_bytes) -
                BUCKET_BYTES * max(each_s - far_s, 0.0))

    def _at_s(self, kind: str, axis: int, size_bytes: float) -> float:
        key = kind, axis, size_bytes
        if key not in self._at:
            self._at[key] = self.cost.collective_s(kind, size_bytes, axis)
        return self._at[key]

    @property
    def left_s(self) -> float:
        """What is packed at most when the backward is over: a bucket for
        each way that gradients may take."""
        axes = len(self.cost.sizes)
        ways = sum(
            math.perm(axes, n) * len(_SUMS)**n for n in range(1, axes + 1))
        return ways * memory_time_s(4 * BUCKET_BYTES, self.cost.device)

    def _copied_s(self, size_bytes: float) -> float:
        return _copied_s(self.cost, size_bytes)


@functools.lru_cache(maxsize=4096)
def _copied_s(cost: ConversionCost, size_bytes: float) -> float:
    """Packed or unpacked; with what a cache may do best."""
    device = cost.device
    return (memory_time_s(2 * size_bytes, device, kernels=10**6) +
            device.launch_overhead_s)


def uses_of(facts: Facts, early: str) -> dict[tuple[str, Value], Uses]:
    """By class and value, of all parameters; `early` is the first block's
    class, where that has it alone."""
    program = facts.program
    some = [u for u in program.uses() if value_kind(u[2]) == "param"]
    times = Counter(name for _, _, name in some)
    size_bytes = Counter[str]()
    for block, _, name in some:
        size_bytes[block.name] += program.specs[name].size_bytes
    second = program.blocks[1].name if early else ""
    found: dict[tuple[str, Value], Uses] = {}
    for block, node, name in some:
        key, part = (block.block_class, Value(node)), 1 / times[name]
        old = found.get(key)
        found[key] = Uses(all=(old.all if old else 0.0) + part,
                          first=(old.first if old else 0.0) + part *
                          (block.name == program.blocks[0].name),
                          second=(old.second if old else 0.0) + part *
                          (block.name == second),
                          block_bytes=max(old.block_bytes if old else 0.0,
                                          size_bytes[block.name]))
    return found


def state_times(facts: Facts, mesh: OverlapMesh) -> StateTimes:
    """Of a program's parameters on a mesh."""
    whole = {
        float(facts.program.specs[n].size_bytes)
        for n in facts.program.params
    }
    parts = {
        math.prod(some)
        for count in range(len(mesh.sizes) + 1)
        for some in itertools.combinations(mesh.sizes, count)
    }
    return StateTimes(mesh.whole_cost, [n / p for n in whole for p in parts])
