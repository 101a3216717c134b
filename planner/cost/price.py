"""The price of a whole plan, from its layouts alone.

Walks blocks, calls and conversions as the passes will emit them. It shares
the primitives (roofline, collective time, the conversion table) with the
search but none of its tables, and so checks them: the search's objective
must equal this sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from planner.cluster.spec import DeviceKind
from planner.cost.compute import Work, time_s, work
from planner.cost.conversion import ConversionCost
from planner.cost.dtype import product_dtype
from planner.ir.convert import Move, conversion_steps
from planner.ir.layout import Layout, R
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import Block, BlockClass, Program, value_kind
from planner.ir.values import (Value, call_of, calls_of, operands_of,
                               outputs_of, value_of)
from planner.rules.registry import TensorSpec

__all__ = ["CollectivePrice", "PlanPrice", "price"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePrice:
    """One collective of one block class, over all its blocks.

    Parameters
    ----------
    where : str
        Block class, or ``between blocks``.
    value : str
        Label of the value that is converted.
    kind, axis, direction : str
        ``direction`` is ``forward``, ``backward`` or ``regather``.
    size_bytes : float
        Of the value that the group holds together, once.
    time_s : float
        Of all `count` runs.
    """

    where: str
    value: str
    kind: str
    axis: str
    direction: str
    size_bytes: float
    time_s: float
    count: int


@dataclass(frozen=True, kw_only=True)
class PlanPrice:
    """One training step on one rank, nothing overlapped.

    Parameters
    ----------
    forward_s, backward_s : float
        Compute, without conversions.
    local_s : float
        Conversions that move nothing between ranks.
    collectives : tuple of CollectivePrice
    undivided : mapping of str to float
        Per axis, seconds of compute that every rank of it repeats.
    """

    forward_s: float
    backward_s: float
    local_s: float
    collectives: tuple[CollectivePrice, ...]
    undivided: Mapping[str, float]

    @property
    def communication_s(self) -> float:
        return sum(c.time_s for c in self.collectives)

    @property
    def compute_s(self) -> float:
        return self.forward_s + self.backward_s

    @property
    def time_s(self) -> float:
        return self.compute_s + self.local_s + self.communication_s

    def by_axis(self) -> dict[str, tuple[float, float]]:
        """Per axis: bytes and seconds of its collectives."""
        found: dict[str, tuple[float, float]] = {}
        for c in self.collectives:
            size, time = found.get(c.axis, (0.0, 0.0))
            found[c.axis] = (size + c.size_bytes * c.count, time + c.time_s)
        return found


def price(program: Program, layout: ProgramLayout, cost: ConversionCost,
          device: DeviceKind) -> PlanPrice:
    """Price one step of a program in given layouts."""
    return _Pricing(program, layout, cost, device).run()


class _Pricing:

    def __init__(self, program: Program, layout: ProgramLayout,
                 cost: ConversionCost, device: DeviceKind) -> None:
        self.program = program
        self.layout = layout
        self.cost = cost
        self.device = device
        self.forward_s = self.backward_s = self.local_s = 0.0
        self.found: list[CollectivePrice] = []
        self.undivided: dict[str, float] = {}

    def run(self) -> PlanPrice:
        counts = Counter(b.block_class for b in self.program.blocks)
        first = {b.block_class: b for b in reversed(self.program.blocks)}
        for name, cls in self.program.classes.items():
            self._class(cls, first[name], counts[name])
        self._between()
        return PlanPrice(
            forward_s=self.forward_s, backward_s=self.backward_s,
            local_s=self.local_s, collectives=tuple(self.found),
            undivided=self.undivided)

    def _class(self, cls: BlockClass, block: Block, count: int) -> None:
        layout = self.layout.classes[cls.name]
        for node, name in zip(cls.placeholders, block.operands, strict=True):
            if value_kind(name) not in ("param", "buffer", "const"):
                continue
            value = Value(node)
            self._convert(cls.name, value.label, value.spec,
                          self.layout.at_rest[name],
                          layout.hubs[value.label], count,
                          again=name in self.layout.regather)
        for node in calls_of(cls.graph):
            self._compute(cls, node, layout, count)
        for value, targets in _wanted(cls, layout).items():
            source = layout.hubs[value.label]
            for target in targets:
                self._convert(cls.name, value.label, value.spec, source,
                              target, count)

    def _compute(self, cls: BlockClass, node: object, layout: ClassLayout,
                 count: int) -> None:
        call = call_of(node)  # type: ignore[arg-type]
        label = node.meta["label"]  # type: ignore[attr-defined]
        chosen = layout.calls[label]
        share = 1.0
        names, sizes = self.layout.mesh.names, self.layout.mesh.sizes
        for option, size in zip(chosen.options, sizes, strict=True):
            share /= size if option.is_sharded else 1
        how: Work = work(call)
        forward_s, backward_s = time_s(how, self.device,
                                       product_dtype(call), share=share)
        self.forward_s += forward_s * count
        self.backward_s += backward_s * count
        for option, axis, size in zip(chosen.options, names, sizes,
                                      strict=True):
            if not option.is_sharded and size > 1:
                self.undivided[axis] = self.undivided.get(axis, 0.0) + (
                    forward_s + backward_s) * count
        for number, value in enumerate(
                outputs_of(node)):  # type: ignore[arg-type]
            made = chosen.output(number)
            self._convert(cls.name, value.label, value.spec, made,
                          layout.hubs.get(value.label, made), count)

    def _between(self) -> None:
        """Conversions between blocks, of inputs and of outputs."""
        held = {n: (spec, self.layout.at_rest[n])
                for n, spec in self.program.specs.items()}
        done: set[tuple[str, Layout]] = set()

        def bring(name: str, target: Layout) -> None:
            spec, source = held[name]
            if (name, target) not in done:
                done.add((name, target))
                self._convert("between blocks", name, spec, source, target,
                              1)

        whole = (R, ) * len(self.layout.mesh.sizes)
        for block in self.program.blocks:
            cls = self.program.class_of(block)
            hubs = self.layout.classes[cls.name].hubs
            for node, name in zip(cls.placeholders, block.operands,
                                  strict=True):
                if value_kind(name) not in ("param", "buffer", "const"):
                    bring(name, hubs[Value(node).label])
            for node, name in zip(cls.results, block.results, strict=True):
                value = value_of(node)
                held[name] = (value.spec, hubs[value.label])
        for out in self.program.outputs:
            if out is not None:
                bring(out, whole)
        for out in self.program.mutations.values():
            bring(out, whole)

    def _convert(self, where: str, label: str, spec: TensorSpec,
                 source: Layout, target: Layout, count: int, *,
                 again: bool = False) -> None:
        steps = conversion_steps(source, target,
                                 differentiable=spec.requires_grad)
        assert steps is not None, f"{label}: {source} to {target}"
        for step in steps:
            whole = self.cost.whole_bytes(spec, step)
            assert whole is not None
            moves = [("forward", step.forward)]
            if spec.requires_grad:
                moves.append(("backward", step.backward))
            if again:
                moves.append(("regather", step.forward))
            for direction, how in moves:
                self._move(where, label, direction, how, whole, step.axis,
                           count)

    def _move(self, where: str, label: str, direction: str, how: Move,
              whole_bytes: float, axis: int, count: int) -> None:
        seconds = self.cost.move_time_s(how, whole_bytes, axis) * count
        if not how.is_collective:
            self.local_s += seconds
            return
        self.found.append(CollectivePrice(
            where=where, value=label, kind=how.kind,
            axis=self.layout.mesh.names[axis], direction=direction,
            size_bytes=whole_bytes, time_s=seconds, count=count))


def _wanted(cls: BlockClass,
            layout: ClassLayout) -> dict[Value, list[Layout]]:
    """The layouts other than its hub in which each value is read."""
    found: dict[Value, dict[Layout, None]] = {}
    for node in calls_of(cls.graph):
        chosen = layout.calls[node.meta["label"]]
        for number, value in enumerate(operands_of(node)):
            found.setdefault(value, {})[chosen.input(number)] = None
    return {v: list(layouts) for v, layouts in found.items()}
