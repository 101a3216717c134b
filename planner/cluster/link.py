"""Links between devices, and the tiers of units that they join."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cluster.checks import check_number, source_of
from planner.names import nearest

__all__ = ["KINDS", "Link", "Tier"]

KINDS = ("all_gather", "all_reduce", "all_to_all", "broadcast",
         "reduce_scatter", "send")
"""Kinds of collective that links may have factors of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How messages travel, in the alpha-beta model with segments.

    Parameters
    ----------
    latency_s : float
        Time of one message of no bytes between two members (alpha).
    bandwidth_bytes_per_s : float
        What ONE device can send, while it receives as much. A unit of 8
        devices sends 8 times that.
    efficiency : float
        Share of the bandwidth that collectives of large messages reach.
    overhead_s : float
        Fixed time of every collective call (launch, synchronisation).
    segment_s : float
        What each segment costs that a message is cut into to be passed on
        while it still arrives. It makes the way from the latency-bound to
        the bandwidth-bound regime smooth; see
        :mod:`planner.cost.collective`.
    links_per_device : float
        Physical links that the bandwidth is made of: 18 for NVLink 4, 0.5
        where two devices share one network card. Where devices of a unit
        are idle, the others have up to a whole link each.
    switch_reduction : float
        Share of the rate at which the switches reduce what passes through
        them (NVLink SHARP, InfiniBand SHARP); 0: they do not.
    factors : tuple of (str, float)
        By kind of collective (:data:`KINDS`), what it takes over what its
        formula says:
        libraries do not run all of them by the algorithm of the formula.
        One that is left out is 1.
    source : str
        Where the numbers come from.
    sources : tuple of (str, str)
        The source of single fields, where it is another.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    efficiency: float = 1.0
    overhead_s: float = 0.0
    segment_s: float = 0.0
    links_per_device: float = 1.0
    switch_reduction: float = 0.0
    factors: tuple[tuple[str, float], ...] = ()
    source: str = ""
    sources: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("bandwidth_bytes_per_s", "efficiency",
                     "links_per_device"):
            check_number("link",
                         name,
                         getattr(self, name),
                         minimum=0,
                         strict=True)
        for name in ("latency_s", "overhead_s", "segment_s",
                     "switch_reduction"):
            check_number("link",
                         name,
                         getattr(self, name),
                         minimum=0,
                         strict=False)
        for kind, factor in self.factors:
            if kind not in KINDS:
                raise ValueError(f"link: factors has unknown kind {kind!r}; "
                                 f"{nearest(kind, KINDS)}")
            check_number("link",
                         f"factor of {kind}",
                         factor,
                         minimum=0,
                         strict=True)

    def factor(self, kind: str) -> float:
        """By how much a kind of collective takes longer than its formula."""
        return dict(self.factors).get(kind, 1.0)

    @property
    def rate_bytes_per_s(self) -> float:
        """The bandwidth that is reached: bandwidth times efficiency."""
        return self.bandwidth_bytes_per_s * self.efficiency

    def source_of(self, field: str) -> str:
        """Where the number in `field` comes from."""
        return source_of(self, field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the tree: `size` units of the tier below, one link.

    Parameters
    ----------
    name : str
        ``node``, ``rack``, ``fabric``, ``site``, ...
    size : int
        Units of the next inner tier (devices, for the innermost).
    link : Link
        What connects those units, per device.
    """

    name: str
    size: int
    link: Link

    def __post_init__(self) -> None:
        check_number(f"tier {self.name}",
                     "size",
                     self.size,
                     minimum=1,
                     strict=False)
