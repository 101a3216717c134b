"""Learning rates as plain functions of the step.

Nothing is counted, so a run that goes on at any step has the rate that it
would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scaletorch.trainer.config import ScheduleConfig

__all__ = ["SCHEDULES", "schedule"]

Shape = Callable[[float], float]


def _constant(progress: float) -> float:
    del progress
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    """Half a cosine (Loshchilov and Hutter, SGDR, 2017), once."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Shape] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _linear,
}
"""How much of the way down is left after a share of the decay."""


def schedule(config: ScheduleConfig, steps: int) -> Callable[[int], float]:
    """The share of the learning rate at each step.

    Parameters
    ----------
    config : ScheduleConfig
    steps : int
        Of the whole run.

    Returns
    -------
    callable
        Of the number of updates done before, so 0 at first. The rate is
        whole at the end of the warm-up and ``final`` after the last step.

    Raises
    ------
    ValueError
        When warm-up and decay take more steps than there are.

    Examples
    --------
    >>> rate = schedule(ScheduleConfig(name="linear", warmup_steps=2), 6)
    >>> [rate(step) for step in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    warmup = config.warmup_steps
    decay = steps - warmup
    if config.name == "wsd":
        decay = (max(1, steps //
                     10) if config.decay_steps is None else config.decay_steps)
    taken = warmup + max(0, decay)
    if taken > steps:
        raise ValueError(f"schedule.warmup_steps and decay_steps take "
                         f"{taken} steps, but train.steps is {steps}; take "
                         "fewer")
    shape = SCHEDULES[config.name]

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = max(0, step - (steps - decay)) / max(1, decay)
        return config.final + (1 - config.final) * shape(min(1.0, progress))

    return share
