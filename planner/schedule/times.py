"""How long the actions of each stage take, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.cluster.spec import Link
from planner.schedule.actions import KINDS, Edges

__all__ = [
    "EdgeTimes", "StageMemory", "StageTimes", "edge_table", "send_times"
]

EdgeTimes = float | Mapping[tuple[int, int], float]
"""Seconds for a message: of all edges, or by edge (0 for those left out)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of each kind of action, one for each stage.

    Parameters
    ----------
    forward_s, backward_s, input_s, weight_s : tuple of float
        Of ``F``, ``B``, ``I`` and ``W``, while all ranks are at work.
    alone_speedup : float
        How many times as fast a rank is while all others wait; more than 1
        where they share processors.
    replicas : int
        Pipelines that do the same, on the same processors where these are
        shared.
    reduce_s : tuple of float, optional
        Of each stage, for which its rank is at work after its last action.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    input_s: tuple[float, ...]
    weight_s: tuple[float, ...]
    alone_speedup: float = 1.0
    replicas: int = 1
    reduce_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.alone_speedup < 1:
            raise ValueError("a rank is no slower alone, got an "
                             f"alone_speedup of {self.alone_speedup}")
        rows = *self._rows, self.reduce_s or (0.0, ) * self.stages
        for kind, row in zip((*KINDS, "reductions"), rows):
            if len(row) != self.stages or min(row, default=0.0) < 0:
                raise ValueError(f"times of {kind} have to be {self.stages} "
                                 f"numbers that aren't negative, got {row}")

    @staticmethod
    def uniform(stages: int,
                *,
                forward_s: float = 1.0,
                input_s: float = 1.0,
                weight_s: float = 1.0,
                backward_s: float | None = None) -> StageTimes:
        """Stages that are all alike; a backward is both of its parts."""
        whole = input_s + weight_s if backward_s is None else backward_s
        return StageTimes(forward_s=(forward_s, ) * stages,
                          backward_s=(whole, ) * stages,
                          input_s=(input_s, ) * stages,
                          weight_s=(weight_s, ) * stages)

    @staticmethod
    def in_parts(forward_s: Sequence[float],
                 input_s: Sequence[float],
                 weight_s: Sequence[float],
                 *,
                 apart_s: float = 0.0,
                 alone_speedup: float = 1.0,
                 replicas: int = 1,
                 reduce_s: Sequence[float] | None = None) -> StageTimes:
        """Of each stage; a backward is both of its parts, and `apart_s`
        less than both are as actions of their own."""
        return StageTimes(
            forward_s=tuple(forward_s),
            backward_s=tuple(i + w
                             for i, w in zip(input_s, weight_s, strict=True)),
            input_s=tuple(input_s),
            weight_s=tuple(w + apart_s for w in weight_s),
            alone_speedup=alone_speedup,
            replicas=replicas,
            reduce_s=None if reduce_s is None else tuple(reduce_s))

    @property
    def _rows(self) -> tuple[tuple[float, ...], ...]:
        return self.forward_s, self.backward_s, self.input_s, self.weight_s

    @property
    def stages(self) -> int:
        return len(self.forward_s)

    @property
    def table(self) -> list[float]:
        """By the codes of an `ActionGraph`."""
        return [s for row in self._rows for s in row]

    def slowed(self, stage_rank: Sequence[int],
               slowdown: Sequence[float]) -> StageTimes:
        """As on ranks of which each is slower by its factor."""
        factors = [slowdown[r] for r in stage_rank]
        forward, backward, inputs, weights = (tuple(
            s * f for s, f in zip(row, factors, strict=True))
                                              for row in self._rows)
        return StageTimes(forward_s=forward,
                          backward_s=backward,
                          input_s=inputs,
                          weight_s=weights,
                          alone_speedup=self.alone_speedup,
                          replicas=self.replicas,
                          reduce_s=self.reduce_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes that a stage keeps for one micro-batch.

    Parameters
    ----------
    saved_bytes : tuple of float
        For each stage, from the start of its forward to the end of its
        backward.
    held_bytes : tuple of float
        What the gradient of the weights reads: an ``I`` frees the rest and
        the ``W`` this. Gradients of results are part of it, so that it may
        be more than what was saved.
    """

    saved_bytes: tuple[float, ...]
    held_bytes: tuple[float, ...]

    def __post_init__(self) -> None:
        both = (*self.saved_bytes, *self.held_bytes)
        same = len(self.saved_bytes) == len(self.held_bytes)
        if not same or min(both, default=0.0) < 0:
            raise ValueError("saved_bytes and held_bytes are for each stage "
                             f"a number that isn't negative, got {self}")

    @staticmethod
    def uniform(stages: int,
                saved_bytes: float = 1.0,
                held_bytes: float | None = None) -> StageMemory:
        """Stages that are all alike; if left out all is held."""
        held = saved_bytes if held_bytes is None else held_bytes
        return StageMemory(saved_bytes=(saved_bytes, ) * stages,
                           held_bytes=(held, ) * stages)

    @property
    def table(self) -> list[float]:
        """What actions add, by the codes of an `ActionGraph`."""
        pairs = list(zip(self.saved_bytes, self.held_bytes))
        return [
            *(s for s, _ in pairs), *(-s for s, _ in pairs),
            *(h - s for s, h in pairs), *(-h for _, h in pairs)
        ]


def edge_table(times: EdgeTimes, edges: Edges) -> list[float]:
    """Seconds by number of edge, and at -1 the 0 of what isn't sent.

    Raises
    ------
    ValueError
        For a time of an edge that doesn't exist.
    """
    if not isinstance(times, Mapping):
        return [*([float(times)] * len(edges)), 0.0]
    unknown = sorted(set(times) - set(edges))
    if unknown:
        raise ValueError(f"there is a time for the edge {unknown[0]}, which "
                         f"is none of {edges}")
    return [*(float(times.get(e, 0.0)) for e in edges), 0.0]


def send_times(size_bytes: Mapping[tuple[int, int], float],
               link: Link) -> dict[tuple[int, int], float]:
    """Seconds for a message of each edge over a link.

    Parameters
    ----------
    size_bytes : mapping of (int, int) to float
        Bytes of each edge for one micro-batch.
    link : Link
    """
    return {
        e: link.latency_s + size / link.bandwidth_bytes_per_s
        for e, size in sorted(size_bytes.items())
    }
