"""When the actions of a schedule end: one pass over its graph.

A plain loop over lists: an action is two comparisons and a sum, which
costs less in Python than numpy takes for one call, and each action needs
the ends of the ones before it.
"""

from __future__ import annotations

from collections import defaultdict

from planner.schedule.graph import ActionGraph
from planner.schedule.shared import shared_times
from planner.schedule.times import EdgeTimes, StageTimes, edge_table

__all__ = ["finish_times", "makespan"]


def makespan(graph: ActionGraph,
             times: StageTimes,
             p2p_s: EdgeTimes = 0.0) -> float:
    """Seconds from the first start to the last end."""
    return max(finish_times(graph, times, p2p_s), default=0.0)


def finish_times(graph: ActionGraph,
                 times: StageTimes,
                 p2p_s: EdgeTimes = 0.0,
                 occupancy_s: EdgeTimes | None = None) -> list[float]:
    """When each action ends if it starts as soon as it can.

    Parameters
    ----------
    graph : ActionGraph
    times : StageTimes
    p2p_s : float or mapping of (int, int) to float
        Seconds from an action's end until what it sends has arrived. Ranks
        work on while messages are under way.
    occupancy_s : float or mapping of (int, int) to float, optional
        Seconds for which a message keeps the link from its rank to the
        other busy, so that the next one waits. If left out, links carry any
        number of messages at once.

    Returns
    -------
    list of float
        Seconds, by number of the graph's actions.
    """
    seconds, lag = times.table, edge_table(p2p_s, graph.edges)
    busy = (None if occupancy_s is None else edge_table(
        occupancy_s, graph.edges))
    if times.alone_speedup > 1:
        return shared_times(graph, times, lag, busy)[1]
    if busy is not None:
        return _with_links(graph, seconds, lag, busy)
    if graph.more:
        return _with_more(graph, seconds, lag)
    # One too long: at -1, for what an action has none of, there is a 0.
    ends = [0.0] * (len(graph.actions) + 1)
    for number, (code, before, need, edge) in enumerate(
            zip(graph.codes, graph.previous, graph.need, graph.edge)):
        ready = ends[before]
        arrival = ends[need] + lag[edge]
        if arrival > ready:
            ready = arrival
        ends[number] = ready + seconds[code]
    ends.pop()
    return ends


def _with_more(graph: ActionGraph, seconds: list[float],
               lag: list[float]) -> list[float]:
    """The same where some actions read several results."""
    ends = [0.0] * (len(graph.actions) + 1)
    more = graph.more
    for number, (code, before, need, edge) in enumerate(
            zip(graph.codes, graph.previous, graph.need, graph.edge)):
        ready = max(ends[before], ends[need] + lag[edge])
        if number in more:
            for other, way in more[number]:
                ready = max(ready, ends[other] + lag[way])
        ends[number] = ready + seconds[code]
    ends.pop()
    return ends


def _with_links(graph: ActionGraph, seconds: list[float], lag: list[float],
                busy: list[float]) -> list[float]:
    """The same where messages wait for a link that is busy."""
    outgoing = defaultdict(list)
    for sender, reader, edge in graph.messages():
        outgoing[sender].append((edge, graph.rank[reader], reader))
    free: defaultdict[tuple[int, int], float] = defaultdict(float)
    arrivals = [0.0] * len(graph.actions)
    ends = [0.0] * (len(graph.actions) + 1)
    for number, (code, before, need, edge) in enumerate(
            zip(graph.codes, graph.previous, graph.need, graph.edge)):
        ready = max(ends[before], arrivals[number])
        for other, way in ((need, edge), *graph.more.get(number, ())):
            if way < 0:
                ready = max(ready, ends[other])
        ends[number] = end = ready + seconds[code]
        for way, peer, reader in sorted(outgoing[number]):
            link = (graph.rank[number], peer)
            leaves = max(end, free[link])
            free[link] = leaves + busy[way]
            arrivals[reader] = max(arrivals[reader], leaves + lag[way])
    ends.pop()
    return ends
