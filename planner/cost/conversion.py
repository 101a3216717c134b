"""Time of turning one layout into another, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

from planner.cluster.axis import AxisInfo
from planner.cluster.spec import DeviceKind
from planner.cost.collective import collective_time_s
from planner.cost.roofline import memory_time_s
from planner.ir.convert import Move, Step, conversion_steps
from planner.ir.layout import Layout, R, local_shape
from planner.rules.registry import TensorSpec

__all__ = ["ConversionCost", "Held"]


class Held(NamedTuple):
    """What the ranks of an axis hold together of a value.

    Parameters
    ----------
    size_bytes : float
    ones : int
        Of how many of the first dims there is one place: a dim behind these
        is joined and cut where it lies, as the first is.
    """

    size_bytes: float
    ones: int = 0

    @classmethod
    def of(cls, shape: Sequence[int], itemsize: float) -> Self:
        """Of a shape, whole over the axis."""
        ones = next((i for i, n in enumerate(shape) if n != 1), len(shape))
        return cls(math.prod(shape) * itemsize, ones)

    def times(self, share: float) -> Self:
        """Of so many times as much."""
        return self._replace(size_bytes=self.size_bytes * share)


class ConversionCost:
    """Prices conversions on one mesh; remembers what it has priced.

    Parameters
    ----------
    axes : sequence of AxisInfo
        Link of each mesh axis.
    device : DeviceKind
    divided : int
        Among how many ranks every value is divided besides, by axes that
        the layouts do not know of.
    expert_imbalance : float
        Tokens of the rank whose experts get most, over the mean: what
        experts that are spread over ranks take longer.

    Raises
    ------
    ValueError
        When the imbalance is less than one.
    """

    def __init__(self,
                 axes: Sequence[AxisInfo],
                 device: DeviceKind,
                 *,
                 divided: int = 1,
                 expert_imbalance: float = 1.0) -> None:
        if expert_imbalance < 1:
            raise ValueError("expert_imbalance is the most over the mean, "
                             f"at least 1; got {expert_imbalance}")
        self.divided = divided
        self.expert_imbalance = expert_imbalance
        self.axes = tuple(axes)
        self.sizes = tuple(a.size for a in axes)
        self.device = device
        self._known: dict[tuple[TensorSpec, Layout, Layout],
                          tuple[float, float]] = {}
        self._moved: dict[tuple[Move, Held, int], float] = {}

    def on(self, device: DeviceKind) -> ConversionCost:
        """The same between devices of another kind."""
        if device == self.device:
            return self
        return ConversionCost(self.axes,
                              device,
                              divided=self.divided,
                              expert_imbalance=self.expert_imbalance)

    def time_s(self, spec: TensorSpec, source: Layout,
               target: Layout) -> float:
        """Forward and backward time together; inf where impossible."""
        forward_s, backward_s = self.times_s(spec, source, target)
        return forward_s + backward_s

    def times_s(self, spec: TensorSpec, source: Layout,
                target: Layout) -> tuple[float, float]:
        """Forward and backward time; inf where there is no conversion."""
        if source == target:
            return 0.0, 0.0
        key = (spec, source, target)
        if key not in self._known:
            self._known[key] = self._price(spec, source, target)
        return self._known[key]

    def _price(self, spec: TensorSpec, source: Layout,
               target: Layout) -> tuple[float, float]:
        steps = conversion_steps(source,
                                 target,
                                 differentiable=spec.requires_grad)
        if steps is None:
            return float("inf"), float("inf")
        forward_s = backward_s = 0.0
        for step in steps:
            whole = self.held(spec, step)
            if whole is None:
                return float("inf"), float("inf")
            forward_s += self.move_time_s(step.forward, whole, step.axis)
            if spec.requires_grad:
                backward_s += self.move_time_s(step.backward, whole, step.axis)
        return forward_s, backward_s

    def held(self, spec: TensorSpec, step: Step) -> Held | None:
        """What the axis' group holds together of the value.

        None where a dim does not divide.
        """
        layout = list(step.before)
        try:
            for placement in (step.source, step.target, R):
                # What is no shard is as large as the whole.
                if placement.is_shard or placement is R:
                    layout[step.axis] = placement
                    shape = local_shape(spec.shape, layout, self.sizes)
        except ValueError:
            return None
        return Held.of(shape, float(spec.dtype.itemsize) / self.divided)

    def move_time_s(self, how: Move, whole: Held, axis: int) -> float:
        """Time of one move of one axis.

        Parameters
        ----------
        how : Move
        whole : Held
            Of the value before it is divided over this axis.
        axis : int
        """
        if how.kind == "none":
            return 0.0
        key = (how, whole, axis)
        found_s = self._moved.get(key)
        if found_s is None:
            found_s = self._moved[key] = self._move_s(*key)
        return found_s

    def _move_s(self, how: Move, whole: Held, axis: int) -> float:
        """Found once: values of many shapes have as many bytes."""
        device, whole_bytes = self.device, whole.size_bytes
        if not how.is_collective:
            share = 1 if how.kind in ("mask", "pad") else self.sizes[axis]
            return (memory_time_s(2 * whole_bytes / share, device) +
                    device.launch_overhead_s)
        if how.kind in ("all_to_all", "regroup"):
            whole_bytes = whole_bytes / self.sizes[axis]
        # Joining a dim copies once more, and so does cutting it, unless it
        # is the first.
        copies = (how.source_dim > whole.ones) + (how.target_dim > whole.ones)
        if how.source_parts or how.target_parts:
            copies = max(copies, 1)
        kind = "all_to_all" if how.kind == "regroup" else how.kind
        copy_s = memory_time_s(2 * whole_bytes, device) if copies else 0.0
        return (collective_time_s(kind, whole_bytes, self.axes[axis]) +
                device.launch_overhead_s + copies * copy_s)

    def collective_s(self, kind: str, size_bytes: float, axis: int) -> float:
        """Time of one collective of an axis.

        Parameters
        ----------
        kind : str
        size_bytes : float
            Of one rank, as :mod:`planner.cost.collective` counts them.
        axis : int
        """
        return (collective_time_s(kind, size_bytes / self.divided,
                                  self.axes[axis]) +
                self.device.launch_overhead_s)
