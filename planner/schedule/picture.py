"""A simulated schedule as a grid in time: a line for each rank."""

from __future__ import annotations

from planner.schedule.actions import format_rows
from planner.schedule.simulation import Simulation

__all__ = ["format_picture"]


def format_picture(simulation: Simulation, slot_s: float) -> str:
    """Draw a schedule; `parse_schedule` reads the drawing.

    Parameters
    ----------
    simulation : Simulation
    slot_s : float
        Seconds of one column. Actions that are shorter still get one, so
        that the columns of ranks then drift apart.

    Examples
    --------
    >>> from planner.schedule.simulation import simulate
    >>> from planner.schedule.text import parse_schedule
    >>> from planner.schedule.times import StageTimes
    >>> print(format_picture(simulate(parse_schedule("0F0 0B0\\n1F0 1B0"),
    ...                               StageTimes.uniform(2)), 1.0))
    0F0 .   .   .   0B0 -
    .   1F0 1B0 -   .   .
    """
    rows = [_cells(simulation, r, slot_s) for r in range(_ranks(simulation))]
    width = max(map(len, rows))
    return format_rows([r + ["."] * (width - len(r)) for r in rows], even=True)


def _ranks(simulation: Simulation) -> int:
    return len(simulation.graph.numbers)


def _cells(simulation: Simulation, rank: int, slot_s: float) -> list[str]:
    cells: list[str] = []
    for action, start, end in simulation.row(rank):
        # Half a slot either way: times are sums and not exact.
        cells += ["."] * (round(start / slot_s) - len(cells))
        cells.append(str(action))
        cells += ["-"] * (round(end / slot_s) - len(cells))
    return cells
