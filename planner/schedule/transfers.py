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

Sockets have a queue for each direction. There a sender asks first whether
its receive is posted, and the answer queues behind what goes the other way:
a receive that comes after a send waits for all of that. So receives are
posted as soon as their senders begin, and before sends at the same place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from planner.schedule.actions import Schedule
from planner.schedule.engine import finish_times
from planner.schedule.graph import ActionGraph, build_graph
from planner.schedule.times import StageTimes

__all__ = ["Transfer", "transfers"]


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


def transfers(schedule: Schedule,
              edges: Sequence[tuple[int, int]] | None = None,
              *,
              one_queue: bool = True) -> tuple[tuple[Transfer, ...], ...]:
    """For each rank its sends and receives, in the order to post them in.

    Parameters
    ----------
    schedule : Schedule
        Has to have passed `check_schedule` with these edges.
    edges : sequence of (int, int), optional
        Which stage feeds which; a chain if left out. Stages on the same
        rank send nothing.
    one_queue : bool
        Whether messages between two ranks, both ways, go one after the other
        in the order of their posts. If not, those of one direction do.

    Examples
    --------
    >>> from planner.schedule.text import parse_schedule
    >>> for posts in transfers(parse_schedule("0F0 0B0\\n1F0 1B0")):
    ...     print(*posts, sep=", ")
    send F0 of 0->1 -> rank 1, receive B0 of 1->0 <- rank 1
    receive F0 of 0->1 <- rank 0, send B0 of 1->0 -> rank 0
    """
    graph = build_graph(schedule, edges)
    assert not graph.is_stuck, "check_schedule comes first"
    units = StageTimes.uniform(schedule.stages)
    ends = finish_times(graph, units)
    clocks = [[ends[n] for n in row] for row in graph.numbers]
    posts: list[list[Transfer]] = [[] for _ in schedule.ranks]
    last: defaultdict[tuple[int, str, int], int] = defaultdict(int)
    for sender, reader in _messages(graph, ends):
        action, peer = graph.actions[sender], graph.rank[reader]
        start = ends[sender] - units.table[graph.codes[sender]]
        for op, here, there, time in (("send", graph.rank[sender], peer,
                                       ends[sender]),
                                      ("receive", peer, graph.rank[sender],
                                       start)):
            # Posts of one queue never overtake each other.
            queue = (here, "", -1) if one_queue else (here, op, there)
            last[queue] = max(last[queue], bisect_right(clocks[here], time))
            posts[here].append(
                Transfer(op=op,
                         kind="F" if action.kind == "F" else "B",
                         source=action.stage,
                         target=graph.actions[reader].stage,
                         microbatch=action.microbatch,
                         peer=there,
                         position=last[queue]))
    if not one_queue:
        for row in posts:
            row.sort(key=lambda p: (p.position, p.op == "send"))
    return tuple(map(tuple, posts))


def _messages(graph: ActionGraph, ends: list[float]) -> list[tuple[int, int]]:
    """(sender, reader) by the clock; ties by rank, then by reader."""
    found = [(s, r) for s, r, _ in graph.messages()]
    return sorted(found,
                  key=lambda m:
                  (ends[m[0]], graph.rank[m[0]], graph.actions[m[1]].stage))
