"""What a plan is asked to be best at, and how much a step gets done."""

from __future__ import annotations

from dataclasses import dataclass

from planner.ir.program import Program, value_kind

__all__ = ["OBJECTIVES", "Work", "step_work"]

OBJECTIVES = ("step-time", "throughput", "devices")
"""The quickest step, the most work per second and device, or the fewest
devices. On given devices and a given batch the first two are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one step goes through.

    Parameters
    ----------
    unit : {"tokens", "samples"}
    count : int
        Of the global batch.
    """

    unit: str
    count: int

    def rate(self, step_s: float, devices: int) -> float:
        """Units per second and device.

        Examples
        --------
        >>> Work(unit="tokens", count=4096).rate(step_s=2.0, devices=8)
        256.0
        """
        return self.count / max(step_s, 1e-30) / devices


def step_work(program: Program) -> Work:
    """Tokens of the first integer input of two dims, else rows.

    Parameters
    ----------
    program : Program
        Its inputs are one global batch.
    """
    inputs = [
        spec for name, spec in program.specs.items()
        if value_kind(name) == "input" and spec.ndim
    ]
    for spec in inputs:
        if spec.ndim == 2 and not spec.dtype.is_floating_point:
            return Work(unit="tokens", count=spec.shape[0] * spec.shape[1])
    return Work(unit="samples", count=inputs[0].shape[0] if inputs else 1)
