"""How many tokens each expert got, kept aside while a program runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

__all__ = ["CountedCall", "ExpertCounts", "is_counted"]

_WHOLE = torch.ops.scaletorch.experts_forward.default
_ROUTED = torch.ops.scaletorch.experts_routed_forward.default


@dataclass(slots=True)
class ExpertCounts:
    """Of the last forward pass, in the order of the calls.

    In a pipeline that is a pass for each micro-batch.

    Only references are kept: nothing is copied, reduced or waited for
    before someone asks. `began` says when the pass began, in nanoseconds
    of the process' clock; 0 when none has.
    """

    began: int = 0
    step: int = 0
    found: list[tuple[int, str, torch.Tensor]] = field(default_factory=list)

    def begin(self) -> None:
        """Forget the pass before."""
        self.found, self.began = [], time.monotonic_ns()

    def add(self, label: str, counts: torch.Tensor) -> None:
        """Note the counts (experts,) of a call of the current step."""
        self.found.append((self.step, label, counts))

    def by_call(self) -> dict[tuple[int, str], list[torch.Tensor]]:
        """The counts of each call, a tensor for each micro-batch."""
        found: dict[tuple[int, str], list[torch.Tensor]] = {}
        for step, label, counts in self.found:
            found.setdefault((step, label), []).append(counts)
        return found


def is_counted(node: fx.Node) -> bool:
    """Whether a node computes experts forward."""
    return node.target in (_WHOLE, _ROUTED)


class CountedCall:
    """Experts whose counts are noted.

    Parameters
    ----------
    node : fx.Node
    counts : ExpertCounts
    """

    def __init__(self, node: fx.Node, counts: ExpertCounts) -> None:
        self.target: Any = node.target
        self.counts = counts
        self.label = str((node.meta.get("custom") or {}).get("label", ""))
        # What fx prints in the code of a graph.
        self.__name__ = self.__qualname__ = "counted_experts"
        self.__module__ = __name__

    def __call__(self, *args: Any) -> Sequence[torch.Tensor]:
        out = self.target(*args)
        if self.target is _ROUTED:
            found = out[-1]
        else:
            ends = out[-1].long()
            found = torch.diff(ends, prepend=ends.new_zeros(1))
        self.counts.add(self.label, found)
        return out
