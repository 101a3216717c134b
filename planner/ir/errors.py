"""The few errors of our own; each message says what, where, why, what to try.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["CaptureError", "InfeasiblePlan", "LayoutError", "ScheduleError"]


class CaptureError(ValueError):
    """The model can't be captured as a graph.

    Parameters
    ----------
    message : str
    module_path : str, optional
        Of the module that is at fault, where a trace has gone past it.
    unknown_sizes : collection of str, optional
        Names of the sizes that are at fault, in a trace.
    """

    def __init__(
        self,
        message: str,
        *,
        module_path: str | None = None,
        unknown_sizes: Collection[str] = ()
    ) -> None:
        super().__init__(message)
        self.module_path = module_path
        self.unknown_sizes = frozenset(unknown_sizes)


class InfeasiblePlan(ValueError):
    """No plan satisfies the constraints or the memory limit.

    Parameters
    ----------
    message : str
    variables : sequence of str
        Choices that cannot all be made, where they are known.
    """

    def __init__(self, message: str, *, variables: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.variables = tuple(variables)


class LayoutError(ValueError):
    """A plan asks for a layout that is not legal where it stands."""


class ScheduleError(ValueError):
    """A schedule is not executable: deadlock, missing or doubled work."""
