"""The calls of a program with their work, found once for many prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

import torch
from torch import fx

from planner.cluster.spec import DeviceKind
from planner.cost.call_work import work
from planner.cost.compute import time_s
from planner.cost.dtype import product_dtype
from planner.cost.tiles import WHOLE, Parts
from planner.cost.work import Work
from planner.ir.program import Program
from planner.ir.values import Value, call_of, calls_of, operands_of, outputs_of
from planner.rules.registry import OpCall, Option

__all__ = ["KnownCall", "KnownCalls", "known_calls"]


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownCall:
    """One call of a block class, whole."""

    node: fx.Node
    label: str
    call: OpCall
    work: Work
    dtype: torch.dtype
    operands: tuple[Value, ...]
    outputs: tuple[Value, ...]
    _times: dict[tuple[DeviceKind, float, Parts],
                 tuple[float, float]] = field(default_factory=dict)

    def times_s(self,
                device: DeviceKind,
                share: float,
                made: Parts = WHOLE) -> tuple[float, float]:
        """Forward and backward of so much of its work and of what it makes
        (:meth:`made`), found once."""
        key = (device, share, made)
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = time_s(self.work,
                                              device,
                                              self.dtype,
                                              share=share,
                                              made=made)
        return found

    def made(self, options: Sequence[Option],
             sizes: Sequence[int | Fraction]) -> Parts:
        """Parts of the results of a product that one rank makes.

        Parameters
        ----------
        options : sequence of Option
            One per axis.
        sizes : sequence of int or Fraction
            Of the axes.
        """
        if not self.work.results:
            return ()
        parts = [1.0] * len(self.work.results)
        for option, size in zip(options, sizes, strict=True):
            for n, is_cut in enumerate(self.cut_by(option)):
                parts[n] /= float(size) if is_cut else 1
        return tuple(parts)

    def cut_by(self, option: Option) -> tuple[bool, ...]:
        """Which results of a product an option divides."""
        if not self.work.results:
            return ()
        return (option.outputs[0].is_shard, *(option.inputs[i].is_shard
                                              for i in self.work.factors))

    @classmethod
    def of(cls, node: fx.Node) -> Self:
        call = call_of(node)
        return cls(node=node,
                   label=node.meta["label"],
                   call=call,
                   work=work(call),
                   dtype=product_dtype(call),
                   operands=operands_of(node),
                   outputs=outputs_of(node))


KnownCalls = Mapping[str, Sequence[KnownCall]]
"""Per block class, its calls in order."""


def known_calls(program: Program) -> KnownCalls:
    """All calls of a program."""
    return {
        name: [KnownCall.of(n) for n in calls_of(cls.graph)]
        for name, cls in program.classes.items()
    }
