"""Two streams of one rank: computing, and messages on their way.

A collective is started at one place of the rank's order and waited for at
another. What is computed in between hides it; the rest of its time is
*exposed*. Facts about the machine come in, all measured by
:mod:`planner.profile` and without effect where a device does not say:

``interference``
    Share of hidden communication by which what is computed meanwhile gets
    longer: messages need cores and memory too. At 1 nothing is won.
``straggling``, ``straggling_limit_s``
    Ranks that computed for `c` seconds since they last waited for each
    other are apart by that share of `c`, up to the limit: processors are
    shared and ranks are moved between them. Whoever waits for a collective
    waits for the last rank as well.
``alone_speedup``
    How many times as fast a rank computes while all others wait, as those of
    a pipeline do: more than 1 where there are more ranks than processors.
``call_s``
    Where the host computes and sends (it has ``message_s``), each action of a
    schedule costs it what a call of the module does.
``dispatch_s``, ``queue_order``
    What the host takes to launch a kernel, and how well that hides behind
    the device's work (:mod:`planner.cost.queue`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from planner.cluster.device import DeviceKind
from planner.cost.queue import QUEUE_ORDER, queued_s

__all__ = ["Action", "Compute", "Start", "Streams", "Timeline", "Wait", "run"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Seconds of the compute stream.

    `since_s` is given where ranks wait for each other inside: what is
    computed after the last time they do.
    """

    time_s: float
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Message number `message` is on its way from here; messages queue."""

    message: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing goes on before this message has arrived."""

    message: int


Action = Compute | Start | Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """How the two streams of a device get on with each other.

    Parameters
    ----------
    interference, straggling, straggling_limit_s, alone_speedup : float
    action_s, dispatch_s, queue_order : float
        See the module's docstring.
    """

    interference: float = 0.0
    straggling: float = 0.0
    straggling_limit_s: float = 0.0
    alone_speedup: float = 1.0
    action_s: float = 0.0
    dispatch_s: float = 0.0
    queue_order: float = QUEUE_ORDER

    @classmethod
    def of(cls, device: DeviceKind) -> Streams:
        """What a device's coefficients say."""
        return cls(
            interference=min(device.coefficient("interference", 0.0), 1.0),
            straggling=device.coefficient("straggling", 0.0),
            straggling_limit_s=device.coefficient("straggling_limit_s", 0.0),
            alone_speedup=max(device.coefficient("alone_speedup", 1.0), 1.0),
            action_s=(device.coefficient("call_s", 0.0) if device.coefficient(
                "message_s", 0.0) else 0.0),
            dispatch_s=device.coefficient("dispatch_s", 0.0),
            queue_order=device.coefficient("queue_order", QUEUE_ORDER))

    def late_s(self, computed_s: float) -> float:
        """How much later the last rank comes to a collective."""
        return min(self.straggling * computed_s, self.straggling_limit_s)

    def host_s(self, time_s: float, launches: int) -> float:
        """By how much the host makes `time_s` of so many kernels longer."""
        if not self.dispatch_s:
            return 0.0
        whole_s = queued_s(time_s, launches * self.dispatch_s,
                           self.queue_order)
        return float(whole_s) - time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What a run of actions takes.

    Parameters
    ----------
    time_s : float
        Until the last action is over and all messages have arrived.
    exposed_s : mapping of int to float
        Per message, for how long nothing but it went on.
    straggling_s : float
        Waiting for other ranks, beside that.
    interference_s : float
        By how much computing got longer.
    since_s : float
        What was computed since the last wait.
    host_s : float
        Waiting for the host to launch kernels; part of the time.
    """

    time_s: float
    exposed_s: dict[int, float]
    straggling_s: float
    interference_s: float
    since_s: float
    host_s: float = 0.0

    @classmethod
    def of_work(cls, time_s: float) -> Self:
        """In which nothing is waited for."""
        return cls(time_s=time_s,
                   exposed_s={},
                   straggling_s=0.0,
                   interference_s=0.0,
                   since_s=time_s)


def run(actions: Sequence[Action],
        streams: Streams,
        *,
        since_s: float = 0.0) -> Timeline:
    """Run actions in order.

    Parameters
    ----------
    actions : sequence of Compute, Start, Wait
        A message is started once, before it is waited for.
    streams : Streams
    since_s : float
        What was computed before, since the last wait.

    Examples
    --------
    >>> found = run([Start(0, 3.0), Compute(2.0), Wait(0)], Streams())
    >>> found.time_s, found.exposed_s
    (3.0, {0: 1.0})
    """
    now = free = 0.0
    ends: dict[int, tuple[float, float, float]] = {}
    exposed: dict[int, float] = {}
    straggling = interference = 0.0
    for action in actions:
        if isinstance(action, Compute):
            longer = _longer_s(action.time_s, free - now, streams)
            now += action.time_s + longer
            interference += longer
            since_s = (since_s + action.time_s
                       if action.since_s is None else action.since_s)
        elif isinstance(action, Start):
            free = max(free, now) + action.time_s
            ends[action.message] = free, streams.late_s(since_s), since_s
        else:
            end, late, before = ends[action.message]
            exposed[action.message] = max(0.0, end - now)
            waited = max(0.0, end + late - now)
            straggling += waited - exposed[action.message]
            now += waited
            since_s = max(0.0, since_s - before)
    return Timeline(time_s=max(now, free),
                    exposed_s=exposed,
                    straggling_s=straggling,
                    interference_s=interference,
                    since_s=since_s)


def _longer_s(time_s: float, coming_s: float, streams: Streams) -> float:
    """What messages that come for so long add to computing."""
    if coming_s <= 0 or time_s <= 0:
        return 0.0
    rate = 1.0 - streams.interference
    if time_s <= coming_s * rate:
        return time_s / rate - time_s
    return coming_s * streams.interference
