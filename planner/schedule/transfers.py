"""The sends and receives that a schedule implies, in an order that is safe.

Every message has a place in one order of all messages, that in which their
senders would finish if all actions of a kind took equal time. Each rank
posts its sends and its receives in this order, between its actions: a send
after the action that makes the message, a receive before the action that
reads it.

Why this can't deadlock, even where a send waits for its receive, and where
all messages of a rank, both ways, go through one queue (NCCL's communicator
of two ranks is such a queue): actions and messages are ordered by one
clock, an action reads only messages that are earlier and sends only later
ones, and each rank's own order of actions and posts agrees with the clock.
Take the first message that isn't delivered. All that its sender and its
receiver have to do before they post it, earlier actions and earlier
messages, is done or can be, since what those wait for is earlier still; so
both come to post it, and it is the first in the queue at both ends.

For two ranks the order of the posts is the same at both ends, so no tags
are needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from planner.schedule.actions import Schedule
from planner.schedule.graph import ActionGraph, build_graph

__all__ = ["Transfer", "transfers"]

_UNITS = {"F": 1, "B": 2, "I": 1, "W": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One post of a rank: a send, or the receive that belongs to it.

    Parameters
    ----------
    op : str
        ``send`` or ``receive``.
    kind : str
        ``F``: a value, along an edge; ``B``: its gradient, against it.
    source, target : int
        The stages from and to which it goes; for a gradient source is the
        later one.
    microbatch : int
    peer : int
        The rank at the other end.
    position : int
        How many of the rank's own actions come before it.
    """

    op: str
    kind: str
    source: int
    target: int
    microbatch: int
    peer: int
    position: int

    def __str__(self) -> str:
        arrow = "->" if self.op == "send" else "<-"
        return (f"{self.op} {self.kind}{self.microbatch} of "
                f"{self.source}->{self.target} {arrow} rank {self.peer}")


def transfers(
    schedule: Schedule,
    edges: Sequence[tuple[int, int]] | None = None
) -> tuple[tuple[Transfer, ...], ...]:
    """For each rank its sends and receives, in the order to post them in.

    Parameters
    ----------
    schedule : Schedule
        Has to have passed `check_schedule` with these edges.
    edges : sequence of (int, int), optional
        Which stage feeds which; a chain if left out. Stages on the same
        rank send nothing.

    Examples
    --------
    >>> from planner.schedule.text import parse_schedule
    >>> for posts in transfers(parse_schedule("0F0 0B0\\n1F0 1B0")):
    ...     print(*posts, sep=", ")
    send F0 of 0->1 -> rank 1, receive B0 of 1->0 <- rank 1
    receive F0 of 0->1 <- rank 0, send B0 of 1->0 -> rank 0
    """
    graph = build_graph(schedule, edges)
    assert len(graph.actions) == sum(map(len, schedule.ranks)), "deadlock"
    ends = _ends(graph)
    clock: list[list[int]] = [[] for _ in schedule.ranks]
    for number in sorted(range(len(ends)), key=lambda n: graph.position[n]):
        clock[graph.rank[number]].append(ends[number])
    posts: list[list[Transfer]] = [[] for _ in schedule.ranks]
    for sender, reader in _messages(graph, ends):
        action, target = graph.actions[sender], graph.actions[reader]
        start = ends[sender] - _UNITS[action.kind]
        for op, here, peer, position in (("send", sender, reader,
                                          graph.position[sender] + 1),
                                         ("receive", reader, sender,
                                          bisect_right(
                                              clock[graph.rank[reader]],
                                              start))):
            row = posts[graph.rank[here]]
            # Posts never overtake each other.
            position = max(position, row[-1].position if row else 0)
            row.append(
                Transfer(op=op,
                         kind="F" if action.kind == "F" else "B",
                         source=action.stage,
                         target=target.stage,
                         microbatch=action.microbatch,
                         peer=graph.rank[peer],
                         position=position))
    return tuple(map(tuple, posts))


def _ends(graph: ActionGraph) -> list[int]:
    """When each action ends if each starts as soon as it can."""
    ends: list[int] = []
    for action, before, needs in zip(graph.actions, graph.previous,
                                     graph.needs):
        ready = max([ends[before] if before >= 0 else 0] +
                    [ends[n] for n, _ in needs])
        ends.append(ready + _UNITS[action.kind])
    return ends


def _messages(graph: ActionGraph, ends: list[int]) -> list[tuple[int, int]]:
    """(sender, reader) by the clock; ties by rank, then by reader."""
    found = [(number, reader) for reader, needs in enumerate(graph.needs)
             for number, _ in needs
             if graph.rank[number] != graph.rank[reader]]
    return sorted(found,
                  key=lambda m:
                  (ends[m[0]], graph.rank[m[0]], graph.actions[m[1]].stage))
