"""Which shares of the batch devices of different speed shall have.

A rank's time and memory grow with its share, so that the least longest time
in whole parts is found by moving one part at a time from the rank that is
worst off to one that stays better off with it: where no move helps, any
other division gives some rank more than it has now, and none less time than
the worst.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from planner.candidate import Candidate, RankShare
from planner.cluster.along import devices_along
from planner.cluster.spec import DeviceKind
from planner.cost.memory_estimate import estimate_memory
from planner.cost.price import price
from planner.ir.errors import LayoutError
from planner.ir.layouts import ProgramLayout
from planner.ir.shares import divisors, reduced
from planner.ir.verify import Planned
from planner.ir.verify_shares import divided_values, verify_shares
from planner.search.bound import lower_bound_s
from planner.search.layouts import LayoutSolution
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = [
    "and_shared", "shared_bound_s", "shared_candidate", "shared_ranks",
    "with_shares"
]

_MOST = 4
"""So many of the best candidates are tried with unequal shares."""

_Worth = tuple[int, float]
"""Bytes over the limit, then seconds."""


def shared_ranks(planning: Planning,
                 layout: ProgramLayout) -> tuple[RankShare, ...]:
    """What the ranks of a plan with unequal shares take.

    Returns
    -------
    tuple of RankShare
        One for each place along the axes that have shares.
    """
    mesh = layout.mesh
    axes = [mesh.index(n) for n in layout.shares]
    ranks = np.arange(mesh.world_size).reshape(mesh.sizes)
    places = np.moveaxis(ranks, axes, range(len(axes)))
    places = places.reshape(*(mesh.sizes[a] for a in axes), -1)
    known: dict[tuple[DeviceKind, tuple[int, ...]], RankShare] = {}
    found = []
    for place in np.ndindex(places.shape[:-1]):
        members = places[place].tolist()
        device = planning.cluster.weakest(members)
        key = device, tuple(s[i]
                            for s, i in zip(layout.shares.values(), place))
        if key not in known:
            known[key] = _rank_share(planning, layout, members[0], device)
        found.append(known[key])
    return tuple(found)


def _rank_share(planning: Planning, layout: ProgramLayout, rank: int,
                device: DeviceKind) -> RankShare:
    mesh = layout.mesh
    own = divisors(mesh, layout.shares, mesh.coordinate(rank))
    place = dict(zip(mesh.names, mesh.coordinate(rank), strict=True))
    part = math.prod(1 / float(own[mesh.index(n)]) for n in layout.shares)
    return RankShare(device=device,
                     shares=tuple(s[place[n]]
                                  for n, s in layout.shares.items()),
                     part=part,
                     price=price(planning.program,
                                 layout,
                                 planning.tables(mesh).cost.on(device),
                                 device,
                                 calls=planning.facts.known_calls,
                                 divisors=own),
                     memory=estimate_memory(planning.program,
                                            layout,
                                            optimizer=planning.optimizer,
                                            calls=planning.facts.known_calls,
                                            divisors=own))


def shared_candidate(planning: Planning, policies: Sequence[Policy],
                     solution: LayoutSolution,
                     memory_price_s_per_byte: float) -> Candidate:
    """Layouts with unequal shares, with what they cost."""
    ranks = shared_ranks(planning, solution.layout)
    fullest = planning.limits.fullest([r.memory for r in ranks],
                                      [r.device for r in ranks])
    slowest = max(ranks, key=lambda r: r.price.step_s)
    return Candidate(memory_price_s_per_byte=memory_price_s_per_byte,
                     policies=tuple(policies),
                     solution=solution,
                     price=slowest.price,
                     memory=ranks[fullest].memory,
                     bound_s=shared_bound_s(planning, solution.layout),
                     shared=ranks)


def shared_bound_s(planning: Planning, layout: ProgramLayout) -> float:
    """Some rank has at least an even share, and takes no less for it than
    if all devices were of its kind."""
    cluster = planning.cluster
    return min(
        lower_bound_s(planning.facts, layout.mesh,
                      dataclasses.replace(cluster, device=kind, others=()))
        for kind in cluster.kinds())


def and_shared(planning: Planning,
               found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates, best first, and the best without stages with shares."""
    if not planning.cluster.is_mixed:
        return list(found)
    plain = [c for c in found if c.pipeline is None][:_MOST]
    shared = [with_shares(planning, c) for c in plain]
    return sorted([*found, *(c for c in shared if c is not None)],
                  key=planning.rank)


def with_shares(planning: Planning, candidate: Candidate) -> Candidate | None:
    """A candidate with the best shares of the batch.

    Returns
    -------
    Candidate or None
        None where all devices along its axes are alike, and where its
        layouts do not allow unequal shares.
    """
    layout, mesh = candidate.layout, candidate.mesh
    if candidate.pipeline is not None or layout.shares:
        return None
    for axis, name in enumerate(mesh.names):
        devices = devices_along(planning.cluster, mesh.sizes, axis)
        units = _units(layout, planning, axis)
        if len(set(devices)) > 1 and units > len(devices):
            shares = _Division(planning, layout, axis, devices, units).best()
            if shares is not None:
                return planning.priced(
                    candidate.policies,
                    dataclasses.replace(candidate.solution,
                                        layout=_shared(layout, name, shares)),
                    candidate.memory_price_s_per_byte)
    return None


def _shared(layout: ProgramLayout, axis: str,
            shares: Sequence[int]) -> ProgramLayout:
    return dataclasses.replace(layout, shares={axis: reduced(shares)})


def _units(layout: ProgramLayout, planning: Planning, axis: int) -> int:
    """In how many parts everything that the axis divides can be cut; 0
    where it divides nothing."""
    units = 0
    for _, spec, held in divided_values(
            Planned(program=planning.program, layout=layout), [axis]):
        dim = held[axis].dim
        inner = math.prod(s for a, s in enumerate(layout.mesh.sizes)
                          if a != axis and held[a].dim == dim)
        units = math.gcd(units, spec.shape[dim] // inner)
    return units


class _Division:
    """Parts of the batch among the places of one axis."""

    def __init__(self, planning: Planning, layout: ProgramLayout, axis: int,
                 devices: Sequence[DeviceKind], units: int) -> None:
        self.planning, self.layout = planning, layout
        self.axis, self.devices, self.units = axis, devices, units
        self.name = layout.mesh.names[axis]
        self._known: dict[tuple[DeviceKind, int], _Worth] = {}

    def best(self) -> tuple[int, ...] | None:
        """None where unequal shares are not legal, or equal ones best."""
        shares = self._start()
        try:
            verify_shares(self.planning.program,
                          _shared(self.layout, self.name, shares))
        except LayoutError:
            return None
        while self._moved(shares):
            pass
        return tuple(shares) if len(set(shares)) > 1 else None

    def _start(self) -> list[int]:
        """In proportion to the speed at an even share."""
        even = max(1, self.units // len(self.devices))
        speeds = np.array([1 / self._worth(d, even)[1] for d in self.devices])
        exact = self.units * speeds / speeds.sum()
        shares = np.maximum(1, np.floor(exact)).astype(int)
        order = np.argsort(shares - exact, kind="stable")
        for place in order[:max(0, self.units - int(shares.sum()))]:
            shares[place] += 1
        while shares.sum() > self.units:
            shares[int(np.argmax(shares))] -= 1
        return [int(s) for s in shares]

    def _moved(self, shares: list[int]) -> bool:
        """Move a part from the place that is worst off, if that helps."""
        worths = [
            self._worth(d, s)
            for d, s in zip(self.devices, shares, strict=True)
        ]
        worst = worths.index(max(worths))
        if shares[worst] == 1:
            return False
        after = [
            (self._worth(d, s + 1), i)
            for i, (d, s) in enumerate(zip(self.devices, shares, strict=True))
            if i != worst
        ]
        best, place = min(after)
        if best >= worths[worst]:
            return False
        shares[worst] -= 1
        shares[place] += 1
        return True

    def _worth(self, device: DeviceKind, share: int) -> _Worth:
        """What a place takes for a share, whatever the others have."""
        if (device, share) not in self._known:
            rest = self.units - share
            others = len(self.devices) - 1
            shares = [rest // others] * others
            shares[0] += rest - sum(shares)
            layout = dataclasses.replace(self.layout,
                                         shares={self.name: (share, *shares)})
            found = _rank_share(self.planning, layout, 0, device)
            over = found.memory.total - self.planning.limits.on(device)
            self._known[device, share] = max(0, over), found.price.step_s
        return self._known[device, share]
