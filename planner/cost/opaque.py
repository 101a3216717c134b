"""What running a module whole costs: ``scaletorch::opaque``."""

from __future__ import annotations

from dataclasses import dataclass

from planner.rules.registry import OpCall

__all__ = ["BACKWARD_RUNS", "OpaqueSizes", "opaque_sizes"]

BACKWARD_RUNS = 3
"""The backward runs the forward again, and then the gradients of both
operands of each product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueSizes:
    """Of one forward run, as it was metered when it was captured."""

    flops: int
    moved_bytes: int
    kernels: int


def opaque_sizes(call: OpCall) -> OpaqueSizes:
    """What the operator's last arguments say."""
    flops, moved_bytes, kernels = call.args[3:6]
    return OpaqueSizes(flops=flops, moved_bytes=moved_bytes, kernels=kernels)
