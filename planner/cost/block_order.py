"""The order in which one block computes and communicates, by the passes.

Forward, a value is on its way from where it is made to its first reader.
Backward, a gradient is so from its last reader to the call that made the
value, and while one is waited for, gradients of weights are computed, for
which nothing waits: the order of :mod:`passes.overlap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from planner.cost.calls import KnownCall
from planner.cost.timeline import Action, Compute, Start, Wait

__all__ = ["BlockOrder", "Called", "Message", "Moved"]


@dataclass(frozen=True, slots=True)
class Message:
    """One collective of a block, each time it runs."""

    number: int
    time_s: float


@dataclass(slots=True, kw_only=True)
class Moved:
    """A value goes from one layout to another, its gradient back.

    Parameters
    ----------
    value : str
    made : bool
        Whether its maker sends it; else its reader fetches it.
    forward, backward : list of Message
    forward_s, backward_s : float
        Of copies that stay on the rank.
    """

    value: str
    made: bool
    forward: list[Message] = field(default_factory=list)
    backward: list[Message] = field(default_factory=list)
    forward_s: float = 0.0
    backward_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A call computes.

    Parameters
    ----------
    reads, makes : frozenset of str
        Values.
    forward_s, backward_s : float
    weight_s : float
        The part of the backward that no other call waits for.
    forward_kernels, backward_kernels : int
        Launches.
    """

    reads: frozenset[str]
    makes: frozenset[str]
    forward_s: float
    backward_s: float
    weight_s: float = 0.0
    forward_kernels: int = 0
    backward_kernels: int = 0

    @classmethod
    def of(cls, call: KnownCall, forward_s: float, backward_s: float) -> Self:
        """A call; of a product's backward, the gradients of parameters
        are what nothing waits for."""
        factors = [v for v in call.operands[:2] if v.spec.requires_grad]
        weights = sum(v.bound_kind == "param" for v in factors)
        share = (weights /
                 len(factors) if factors and call.work.forward_flops else 0.0)
        return cls(reads=frozenset(v.label for v in call.operands),
                   makes=frozenset(v.label for v in call.outputs),
                   forward_s=forward_s,
                   backward_s=backward_s,
                   weight_s=backward_s * share,
                   forward_kernels=call.work.forward_kernels,
                   backward_kernels=call.work.backward_kernels)


@dataclass(slots=True)
class BlockOrder:
    """Calls and moves of one block, in the order of its forward.

    `again` is what its backward runs once more first.
    """

    events: list[Called | Moved] = field(default_factory=list)
    again: list[Called | Moved] = field(default_factory=list)

    def launches(self) -> tuple[int, int]:
        """Kernels and messages of the forward, and of the backward."""
        again, _ = _launches(self.again)
        forward, backward = _launches(self.events)
        return forward, again + backward

    def forward(self) -> list[Action]:
        """What the forward does."""
        return list(_forward(self.events))

    def backward(self) -> list[Action]:
        """What the backward does."""
        return [*_forward(self.again), *_backward(self.events)]


def _launches(events: Sequence[Called | Moved]) -> tuple[int, int]:
    forward = backward = 0
    for event in events:
        if isinstance(event, Called):
            forward += event.forward_kernels
            backward += event.backward_kernels
        else:
            forward += len(event.forward) + (event.forward_s > 0)
            backward += len(event.backward) + (event.backward_s > 0)
    return forward, backward


def _forward(events: Sequence[Called | Moved]) -> Iterator[Action]:
    coming: dict[str, list[Message]] = {}
    for event in events:
        if isinstance(event, Called):
            for value in sorted(event.reads & coming.keys()):
                yield from _waits(coming.pop(value))
            yield Compute(event.forward_s)
            continue
        if event.forward_s:
            yield Compute(event.forward_s)
        yield from (Start(m.number, m.time_s) for m in event.forward)
        if event.made:
            coming.setdefault(event.value, []).extend(event.forward)
        else:
            yield from _waits(event.forward)
    for left in coming.values():
        yield from _waits(left)


def _backward(events: Sequence[Called | Moved]) -> Iterator[Action]:
    coming: dict[str, list[Message]] = {}
    put_off_s = 0.0

    def arrived(messages: Sequence[Message]) -> Iterator[Action]:
        nonlocal put_off_s
        if messages and put_off_s:
            yield Compute(put_off_s)
            put_off_s = 0.0
        yield from _waits(messages)

    for event in reversed(events):
        if isinstance(event, Called):
            for value in sorted(event.makes & coming.keys()):
                yield from arrived(coming.pop(value))
            yield Compute(event.backward_s - event.weight_s)
            put_off_s += event.weight_s
            continue
        yield from (Start(m.number, m.time_s) for m in event.backward)
        if event.made:
            yield from arrived(event.backward)
        else:
            coming.setdefault(event.value, []).extend(event.backward)
        if event.backward_s:
            yield Compute(event.backward_s)
    for left in coming.values():
        yield from arrived(left)
    yield Compute(put_off_s)


def _waits(messages: Sequence[Message]) -> Iterator[Action]:
    return (Wait(m.number) for m in messages)
