"""How many devices a model needs: the fewest on which a plan fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from planner.choices import factorisations
from planner.cluster.spec import ClusterSpec
from planner.cost.optimizer import optimizer_bytes
from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.tried import Tried, search_or_why
from planner.units import format_bytes

__all__ = [
    "Fit", "MOST_DEVICES", "Sized", "device_counts", "fewest_devices",
    "state_bytes"
]

MOST_DEVICES = 65536
"""Beyond which no plan is sought, unless the cluster states its size."""

_SPLIT = 64
"""Devices whose meshes have every axis that is searched."""

_HINT = "use a smaller batch, or devices with more memory"

_SLACK = 2.0
"""How many times the least that there is a plan may take which is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized(Tried):
    """What was found on some number of devices."""

    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The smallest number of devices, and what is around it.

    Parameters
    ----------
    smallest : Sized
    below, above : Sized, optional
        One step of devices less, which does not fit, and one more.
    state_bytes : int
        Of parameters, gradients and optimizer on all devices together, if
        nothing is held twice.
    """

    smallest: Sized
    below: Sized | None
    above: Sized | None
    state_bytes: int

    @property
    def rows(self) -> tuple[Sized, ...]:
        """From few to many devices."""
        sized = (self.below, self.smallest, self.above)
        return tuple(s for s in sized if s is not None)


def device_counts(cluster: ClusterSpec, most: int) -> Iterator[int]:
    """Numbers of devices that are worth a try, from one up.

    Powers of two inside a node, then one, two, three, four, six, eight, ...
    whole nodes.

    Examples
    --------
    >>> from planner.cluster import load_cluster
    >>> list(device_counts(load_cluster("h100-sxm"), 64))
    [1, 2, 4, 8, 16, 24, 32, 48, 64]
    """
    node = cluster.tiers[0].size if len(cluster.tiers) > 1 else most
    count = 1
    while count < min(node, most + 1):
        yield count
        count *= 2
    nodes = 1
    while nodes * node <= most:
        yield nodes * node
        if nodes > 1 and 3 * nodes // 2 * node <= most:
            yield 3 * nodes // 2 * node
        nodes *= 2


def state_bytes(planning: Planning) -> int:
    """Parameters, their gradients and optimizer state, each once."""
    program = planning.program
    specs = [program.specs[n] for n in program.params]
    trained = [s for s in specs if s.requires_grad]
    return (sum(s.size_bytes for s in (*specs, *trained)) +
            optimizer_bytes(planning.optimizer, trained))


def fewest_devices(
    planning: Planning,
    *,
    most: int = MOST_DEVICES,
    meshes: Callable[[int], Sequence[MeshSpec]] = factorisations,
) -> Fit:
    """The fewest devices on which a plan fits in memory.

    Numbers are tried from below, each with a whole search; those on which
    the state alone is too much are left out, and multiples of those searched
    on which the lightest plan is too much even divided evenly.

    Parameters
    ----------
    planning : Planning
        Its cluster gives the kind of devices and links, not their number.
    most : int
        No more devices are tried.
    meshes : callable
        From a number of devices to the meshes that are searched.

    Raises
    ------
    InfeasiblePlan
        When nothing fits, with what the last number of devices lacks.
    """
    state = state_bytes(planning)
    planning.constraints.check_axes(
        {n
         for m in meshes(_SPLIT)
         for n in m.names})
    below: Sized | None = None
    heavy: list[Sized] = []
    counts = device_counts(planning.cluster, most)
    for devices in counts:
        reason = (_state_too_large(planning, devices, state)
                  or _lightest_too_large(planning, devices, heavy))
        if reason:
            below = Sized(devices=devices, planning=planning, reason=reason)
            continue
        here = _searched(planning, devices, meshes)
        if here.fits:
            more = next(counts, None)
            return Fit(smallest=here,
                       below=below,
                       above=None if more is None else _searched(
                           planning, more, meshes),
                       state_bytes=state)
        below = here
        if _is_lightest(here, meshes):
            heavy.append(here)
    raise InfeasiblePlan(_why_none(planning, below))


def _state_too_large(planning: Planning, devices: int, state: int) -> str:
    if state <= devices * planning.memory_limit_bytes:
        return ""
    return f"state alone takes {format_bytes(state / devices)} of each device"


def _is_lightest(sized: Sized, meshes: Callable[[int],
                                                Sequence[MeshSpec]]) -> bool:
    """Whether all splits were searched to the end."""
    return (bool(sized.found) and sized.planning.time_limit_s is None
            and len(meshes(sized.devices)) > 1)


def _lightest_too_large(planning: Planning, devices: int,
                        heavy: Sequence[Sized]) -> str:
    """Why nothing fits, if what does not on fewer devices is the reason.

    One device can hold what several do in its place, so that the lightest
    plan on a part of them takes no more in all.
    """
    for fewer in heavy:
        times, rest = divmod(devices, fewer.devices)
        share = fewer.found[0].memory.total / times
        if not rest and share > _SLACK * planning.memory_limit_bytes:
            return (f"{_smallest(fewer)} on {fewer.devices} devices, which "
                    f"is {format_bytes(share)} of each of {devices}; "
                    f"{_HINT}")
    return ""


def _searched(planning: Planning, devices: int,
              meshes: Callable[[int], Sequence[MeshSpec]]) -> Sized:
    tried = meshes(devices)
    axes = {n for m in tried for n in m.names}
    sized = planning.copied(cluster=planning.cluster.resized(devices),
                            constraints=planning.constraints.on_axes(axes))
    found, reason = search_or_why(sized, tried)
    return Sized(devices=devices, planning=sized, found=found, reason=reason)


def _why_none(planning: Planning, last: Sized | None) -> str:
    name = planning.program.model_name
    limit = format_bytes(planning.memory_limit_bytes)
    if last is None:
        return f"no number of devices was tried for {name}"
    start = (f"no plan of {name} fits {limit} per device on up to "
             f"{last.devices} devices")
    if not last.found:
        return f"{start}: {last.reason}"
    return f"{start}: {_smallest(last)}; {_HINT}"


def _smallest(sized: Sized) -> str:
    best = sized.found[0]
    parts = ", ".join(f"{kind} {format_bytes(size)}"
                      for kind, size in best.memory.by_kind().items() if size)
    return (f"the smallest, {best.name}, takes "
            f"{format_bytes(best.memory.total)} ({parts})")
