"""What ranks do once a step, before and after the actions of a schedule."""

from __future__ import annotations

from collections.abc import Sequence

from planner.schedule.simulation import Simulation

__all__ = ["delay_s", "reductions", "start_s"]


def delay_s(simulation: Simulation, begin_s: Sequence[float]) -> float:
    """How much later than in a simulation ranks run their actions, because
    one of them still does what it begins with.

    Parameters
    ----------
    simulation : Simulation
    begin_s : sequence of float
        What each rank does before its first action.
    """
    return max(
        max(0.0, s - start_s(simulation, rank))
        for rank, s in enumerate(begin_s))


def start_s(simulation: Simulation, rank: int) -> float:
    """When a rank's first action starts."""
    for number in simulation.graph.numbers[rank]:
        return simulation.ends_s[number] - simulation.durations_s[number]
    return 0.0


def reductions(simulation: Simulation,
               finish_s: Sequence[float]) -> list[tuple[int, float, float]]:
    """Each stage with when its gradients are reduced, from and to.

    Parameters
    ----------
    simulation : Simulation
    finish_s : sequence of float
        How long it takes, by stage.
    """
    found = []
    for rank in range(len(simulation.idle_s)):
        done = _ends_s(simulation, rank)
        free = 0.0
        for stage, end in sorted(done.items(), key=lambda kv: kv[1]):
            start = max(free, end)
            free = start + finish_s[stage]
            found.append((stage, start, free))
    return found


def _ends_s(simulation: Simulation, rank: int) -> dict[int, float]:
    """When the last action of each of a rank's stages ends."""
    graph = simulation.graph
    stages = graph.schedule.stage_rank.count(rank)
    done: dict[int, float] = {}
    for number in reversed(graph.numbers[rank]):
        done.setdefault(graph.actions[number].stage, simulation.ends_s[number])
        if len(done) == stages:
            break
    return done
