"""What one training step costs on one rank, by cause."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BlockCompute", "CollectivePrice", "PlanPrice", "RepeatedWork"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePrice:
    """One collective of one block class, over all its blocks.

    Parameters
    ----------
    where : str
        Block class, or ``between blocks``.
    value : str
        Label of the value that is converted.
    kind, axis, direction : str
        ``direction`` is ``forward``, ``backward``, ``regather`` or
        ``recompute``; the last two are part of the backward pass.
    size_bytes : float
        Of the value that the group holds together, once.
    time_s : float
        Of all `count` runs.
    """

    where: str
    value: str
    kind: str
    axis: str
    direction: str
    size_bytes: float
    time_s: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedWork:
    """One call that every rank of an axis repeats, over all its blocks.

    Parameters
    ----------
    where, call : str
        Block class and label.
    axis : str
    time_s : float
        Forward and backward once, of all `count` runs.
    excess_s : float
        How much of that dividing the call over the axis would save.
    count : int
    """

    where: str
    call: str
    axis: str
    time_s: float
    excess_s: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCompute:
    """Compute of one block of a class, each time it runs.

    Parameters
    ----------
    where : str
        Block class.
    forward_s, backward_s, recompute_s : float
    """

    where: str
    forward_s: float
    backward_s: float
    recompute_s: float


@dataclass(frozen=True, kw_only=True)
class PlanPrice:
    """One training step on one rank, nothing overlapped.

    Parameters
    ----------
    forward_s, backward_s : float
        Compute, without conversions.
    recompute_s : float
        Compute of the forward that the backward pass runs again.
    local_s : float
        Conversions that move nothing between ranks.
    collectives : tuple of CollectivePrice
    repeated : tuple of RepeatedWork
        Calls that not every axis divides.
    blocks : tuple of BlockCompute
        By class, in the order of the program.
    """

    forward_s: float
    backward_s: float
    recompute_s: float
    local_s: float
    collectives: tuple[CollectivePrice, ...]
    repeated: tuple[RepeatedWork, ...]
    blocks: tuple[BlockCompute, ...]

    @property
    def communication_s(self) -> float:
        return sum(c.time_s for c in self.collectives)

    @property
    def compute_s(self) -> float:
        return self.forward_s + self.backward_s + self.recompute_s

    @property
    def time_s(self) -> float:
        return self.compute_s + self.local_s + self.communication_s

    @property
    def undivided(self) -> dict[str, float]:
        """Per axis, seconds of compute that every rank of it repeats."""
        found: dict[str, float] = {}
        for part in self.repeated:
            found[part.axis] = found.get(part.axis, 0.0) + part.time_s
        return found

    def way_s(self, *, backward: bool) -> float:
        """Seconds of one way through the program, local copies by halves."""
        known = (("backward", "regather", "recompute") if backward else
                 ("forward", ))
        own = (self.backward_s +
               self.recompute_s if backward else self.forward_s)
        return own + self.local_s / 2 + sum(
            c.time_s for c in self.collectives if c.direction in known)

    def by_axis(self) -> dict[str, tuple[float, float]]:
        """Per axis: bytes and seconds of its collectives."""
        found: dict[str, tuple[float, float]] = {}
        for c in self.collectives:
            size, time = found.get(c.axis, (0.0, 0.0))
            found[c.axis] = (size + c.size_bytes * c.count, time + c.time_s)
        return found
