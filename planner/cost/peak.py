"""When a step takes most memory: its moments, block by block.

What a rank holds beside parameters and the optimizer's state changes over a
step: saved values come in the forward and go in the backward, while the
gradients of parameters come. Sums of both at their largest would be more
than there ever is. The moments are those of the executor: a block's saved
values, and the gradients that its backward is given, are held until that is
over, gathered parameters come in units, gradients are packed into buckets
before they are sent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

from planner.cost.calls import KnownCall
from planner.cost.flops import op_name
from planner.cost.moved import passes_gradient
from planner.cost.saved import is_view
from planner.ir.layout import Layout, local_shape
from planner.ir.layouts import ClassLayout
from planner.ir.values import Value
from planner.rules.registry import TensorSpec

__all__ = [
    "BlockPeaks", "StepPeak", "backward_peak", "forward_peak", "step_peak"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPeaks:
    """What one block takes, in bytes.

    Parameters
    ----------
    kept : int
        From its forward to its backward.
    forward, backward : int
        Most at once in each way, beside what is kept; gradients of its
        parameters are among the backward's.
    gathered : int
        Parameters that are whole from their first use to the end of that
        block's backward.
    unread : int
        Of these, those that no backward reads, to the end of the forward.
    regathered : int
        Parameters that are whole while their unit runs, in each way.
    gradients : int
        Of its parameters, as its backward makes them.
    """

    kept: int
    forward: int
    backward: int
    gathered: int = 0
    unread: int = 0
    regathered: int = 0
    gradients: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPeak:
    """The most that there is at once in a step, in bytes.

    Parameters
    ----------
    total : int
        Of all.
    steady : int
        Of what is the same however large the batch is.
    gathered : int
        Of whole parameters, and of what they arrive in.
    gradients : int
        Of gradients of parameters, whole and at rest, and of their copies in
        buckets.
    """

    total: int
    steady: int
    gathered: int
    gradients: int


class _Moments:
    """The most so far of all, and of some kinds."""

    def __init__(self) -> None:
        self.total = self.steady = self.gathered = self.gradients = 0

    def see(self,
            *,
            grows: int = 0,
            gathered: int = 0,
            gradients: int = 0) -> None:
        """A moment, with what grows with the batch."""
        steady = gathered + gradients
        self.total = max(self.total, grows + steady)
        self.steady = max(self.steady, steady)
        self.gathered = max(self.gathered, gathered)
        self.gradients = max(self.gradients, gradients)

    def upon(self, base: int, steady: int) -> StepPeak:
        """Beside what is there all the time, and the part of it that does
        not grow."""
        return StepPeak(total=base + self.total,
                        steady=steady + self.steady,
                        gathered=self.gathered,
                        gradients=self.gradients)


class _Live:
    """Bytes that are alive; values may share them."""

    def __init__(self) -> None:
        self._sizes: dict[Value, int] = {}
        self._base: dict[Value, Value] = {}
        self._users: dict[Value, int] = {}
        self.total = self.peak = 0

    def __contains__(self, value: Value) -> bool:
        return value in self._base

    def add(self, value: Value, size_bytes: int) -> None:
        self._sizes[value], self._base[value] = size_bytes, value
        self._users[value] = 1
        self.total += size_bytes
        self.peak = max(self.peak, self.total)

    def share(self, value: Value, base: Value) -> None:
        """`value` lies where `base` does."""
        root = self._base[base]
        self._base[value] = root
        self._users[root] += 1

    def free(self, value: Value) -> None:
        root = self._base.pop(value, None)
        if root is not None:
            self._users[root] -= 1
            if not self._users[root]:
                self.total -= self._sizes.pop(root)

    def burst(self, size_bytes: int) -> None:
        """So many more bytes, for a moment."""
        self.peak = max(self.peak, self.total + size_bytes)


def _bytes(spec: TensorSpec, layout: Layout,
           sizes: Sequence[int | Fraction]) -> int:
    count = spec.dtype.itemsize
    for size in local_shape(spec.shape, layout, tuple(sizes)):
        count *= size
    return count


def forward_peak(calls: Sequence[KnownCall], layout: ClassLayout,
                 sizes: Sequence[int | Fraction], held: set[Value]) -> int:
    """The most of a block's forward that is not kept for its backward.

    Parameters
    ----------
    calls : sequence of KnownCall
    layout : ClassLayout
    sizes : sequence of int or Fraction
        What divides values along each axis of the mesh.
    held : set of Value
        What is kept, and so counted elsewhere.
    """
    last = {
        value: number
        for number, call in enumerate(calls)
        for value in (*call.operands, *call.outputs)
    }
    live = _Live()
    for number, call in enumerate(calls):
        chosen = layout.calls[call.label]
        for i, value in enumerate(call.outputs):
            base = call.operands[0] if call.operands else None
            if is_view(call.call) and base is not None:
                if base in live:
                    live.share(value, base)
            elif value not in held:
                live.add(value, _bytes(value.spec, chosen.output(i), sizes))
        for value in (*call.operands, *call.outputs):
            if last[value] <= number:
                live.free(value)
    return live.peak


def backward_peak(
    calls: Sequence[KnownCall],
    layout: ClassLayout,
    sizes: Sequence[int | Fraction],
    results: Collection[Value] = ()
) -> tuple[int, int]:
    """The most that gradients take in a block's backward.

    Parameters
    ----------
    calls, layout, sizes
        As for :func:`forward_peak`.
    results : collection of Value
        Of the block. Their gradients are given to its backward, and held
        until it is over.

    Returns
    -------
    peak, parameters : int
        Of all gradients at once, and of those of parameters, which stay.
    """
    live, parameters = _Live(), dict[Value, int]()
    for call in reversed(calls):
        chosen = layout.calls[call.label]
        taken = [v for v in call.outputs if v.spec.requires_grad]
        if not taken:
            continue
        for value in taken:
            if value not in live:
                number = call.outputs.index(value)
                live.add(value, _bytes(value.spec, chosen.output(number),
                                       sizes))
        if op_name(call.call.target) == "cross_entropy_loss":
            # The gradient of the log-softmax, beside that of the logits.
            live.burst(2 *
                       _bytes(call.operands[0].spec, chosen.input(0), sizes))
        for number, value in enumerate(call.operands):
            if not value.spec.requires_grad:
                continue
            size = _bytes(value.spec, chosen.input(number), sizes)
            if value.bound_kind == "param":
                parameters[value] = size
            if value in live:
                live.burst(2 * size)
                live.free(value)
                live.add(value, size)
            elif passes_gradient(call.call):
                live.share(value, taken[0])
            else:
                live.add(value, size)
        for value in taken:
            if value not in results:
                live.free(value)
    return live.peak, sum(parameters.values())


def step_peak(blocks: Sequence[BlockPeaks],
              *,
              base: int,
              packed: frozenset[str],
              finished: int,
              unit_bytes: int,
              grown: int = 0) -> StepPeak:
    """The most bytes at once in a step.

    Parameters
    ----------
    blocks : sequence of BlockPeaks
        In order.
    base : int
        Held all the time: parameters at rest, optimizer state.
    packed : frozenset of str
        Collectives that gradients are packed for, at the end: a copy, in
        which they stay where all ranks get all of it.
    finished : int
        Gradients at rest.
    unit_bytes : int
        Up to which parameters of consecutive blocks are gathered together.
    grown : int
        Of `base`, what grows with the batch.
    """
    units = _units(blocks, unit_bytes)
    seen = _Moments()
    kept, whole = _seen_forward(units, seen)
    whole -= sum(b.unread for b in blocks)
    gradients = 0
    for unit in reversed(units):
        again = sum(b.regathered for b in unit)
        seen.see(grows=kept, gathered=whole + 2 * again, gradients=gradients)
        whole += again
        for block in reversed(unit):
            own = min(block.gradients, block.backward)
            seen.see(grows=kept + block.backward - own,
                     gathered=whole,
                     gradients=gradients + own)
            kept -= block.kept
            whole -= block.gathered - block.unread
            gradients += block.gradients
        whole -= again
    last = gradients * (2 if packed else 1)
    if "reduce_scatter" in packed:
        last += finished
    seen.see(gathered=whole, gradients=last)
    return seen.upon(base, base - grown)


def _seen_forward(units: Sequence[Sequence[BlockPeaks]],
                  seen: _Moments) -> tuple[int, int]:
    """What is kept then, and what stays whole."""
    kept = whole = 0
    for unit in units:
        again = sum(b.regathered for b in unit)
        comes = again + sum(b.gathered for b in unit)
        # What parameters arrive in is copied from.
        seen.see(grows=kept, gathered=whole + 2 * comes)
        whole += comes
        for block in unit:
            kept += block.kept
            seen.see(grows=kept + block.forward, gathered=whole)
        whole -= again
    return kept, whole


def _units(blocks: Sequence[BlockPeaks],
           limit_bytes: int) -> list[list[BlockPeaks]]:
    """Consecutive blocks whose parameters come together."""
    found: list[list[BlockPeaks]] = []
    size = 0
    for block in blocks:
        own = block.gathered + block.regathered
        if not found or size + own > limit_bytes:
            found.append([])
            size = 0
        found[-1].append(block)
        size += own
    return found
