"""What one training step costs on one rank, by cause."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BlockCompute", "CollectivePrice", "Exposure", "PlanPrice", "RepeatedWork",
    "StageTime", "StepTime"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePrice:
    """One collective of one block class, over all its blocks.

    Of a pipeline's ranks each runs a share of them, which need not be whole.

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
    count: float


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One collective of a step, and what of it nothing hides.

    Parameters
    ----------
    where : str
        Block class, ``between blocks``, ``parameters`` or ``gradients``.
    value, kind, axis, direction, size_bytes, count
        See :class:`CollectivePrice`; of parameters and gradients that are
        packed, how many.
    time_s : float
        Of all `count` runs.
    exposed_s : float
        The part of that in which the rank waits.
    """

    where: str
    value: str
    kind: str
    axis: str
    direction: str
    size_bytes: float
    time_s: float
    exposed_s: float
    count: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step by the event model (:mod:`planner.cost.step`).

    Parameters
    ----------
    time_s : float
        Forward and backward, without the optimizer.
    straggling_s : float
        Waiting until the last rank comes to a collective.
    interference_s : float
        By how much messages on their way make computing longer.
    host_s : float
        Waiting for the host to launch kernels.
    around_s : float
        Calling the module, handing gradients over, copies between blocks.
    exposures : tuple of Exposure
        Every collective, parameters and gradients by bucket.
    """

    time_s: float
    straggling_s: float
    interference_s: float
    host_s: float
    around_s: float
    exposures: tuple[Exposure, ...]

    @property
    def exposed_s(self) -> float:
        """Seconds in which the rank waits for messages."""
        return sum(e.exposed_s for e in self.exposures)

    def by_axis(self) -> dict[str, tuple[float, float]]:
        """Per axis: seconds of its collectives, and exposed ones."""
        found: dict[str, tuple[float, float]] = {}
        for e in self.exposures:
            time_s, exposed_s = found.get(e.axis, (0.0, 0.0))
            found[e.axis] = time_s + e.time_s, exposed_s + e.exposed_s
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """A stage of a pipeline (:mod:`planner.cost.stage_time`).

    Parameters
    ----------
    forward_s, backward_s : float
        Of one micro-batch.
    begin_s : float
        Bringing parameters into use before the first.
    finish_s : float
        Reducing gradients after the last.
    forward_host_s, backward_host_s : float
        Waiting for the host in one micro-batch; part of the first two.
    straggling_s, interference_s : float
        Of a whole step, see :class:`StepTime`; part of the others.
    exposures : tuple of Exposure
        Of a whole step.
    """

    forward_s: float
    backward_s: float
    begin_s: float
    finish_s: float
    forward_host_s: float
    backward_host_s: float
    straggling_s: float
    interference_s: float
    exposures: tuple[Exposure, ...]


@dataclass(frozen=True, kw_only=True)
class PlanPrice:
    """One training step on one rank, nothing overlapped but in `step`.

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
    step : StepTime, optional
        The same by the event model, or by a pipeline's schedule; None where
        micro-batches follow each other and no schedule is given.
    stage : StageTime, optional
        Where there are micro-batches: the program as a stage.
    """

    forward_s: float
    backward_s: float
    recompute_s: float
    local_s: float
    collectives: tuple[CollectivePrice, ...]
    repeated: tuple[RepeatedWork, ...]
    blocks: tuple[BlockCompute, ...]
    step: StepTime | None = None
    stage: StageTime | None = None

    @property
    def step_s(self) -> float:
        """Forward and backward with what overlaps; else the sum."""
        return self.time_s if self.step is None else self.step.time_s

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
